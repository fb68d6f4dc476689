"""BOOK of secure aggregation: the server learns the sum of the clients' vectors, and no single one.

Chapters, in reading order::

    agreement   two clients agree on a secret that the server, who carries their messages, does not have
    prg         a secret becomes a mask as long as the model
    encoding    real vectors become integers modulo 2^32, where sums are exact and masks are perfect
    messages    what travels, byte by byte
    session     what everybody must agree on, bound into every mask
    client      the client's side of one round, a state machine
    server      the server's side

The protocol so far is the one-shot core of Bonawitz et al. 2017 ("Practical Secure Aggregation for Privacy-Preserving
Machine Learning", CCS 2017, section 4.0.1): everyone in the roster answers, or the round is lost. Shares of the keys
(dropouts), signatures and sparse graphs (Bell et al. 2020) are chapters to come; each adds stages and messages to the
two state machines and leaves the chapters before them as they are.

Guarantees:
    For an honest-but-curious server, even together with all but two of the clients: what it sees could have been
    made, up to what breaking X25519, HKDF-SHA256 or AES-256 takes, from the honest clients' *sum* and public data alone.

    Not promised: secrecy against a server that forges public keys (nothing is signed yet); against a server in league
    with all clients but one, who see the last one's vector in the sum; survival of a single dropout; protection against
    poisoned inputs. Secure aggregation hides *who*, not *whether*: a sum over few clients, or of the same clients
    round after round, still leaks, and only differential privacy bounds how much. Keys and sums pass through Python
    objects: nothing here is claimed to run in constant time, and bytes cannot be erased for certain.
"""
