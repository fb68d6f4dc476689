"""BOOK of secure aggregation: a protocol by which the server learns the sum of the clients' vectors, and no single one.

Chapters, in reading order::

    prg          pseudo-random generator: expands a key to a mask as long as the model
    packing      packing of words for transport
    encoding     fixed-point encoding of real vectors as integers modulo 2^bits, in which sums are exact and masks are perfect
    field        the prime field in which secrets are shared
    shamir       Shamir's secret sharing
    sharing      tags by which a share that is revealed later is recognised
    agreement    key agreement of two clients through a server that does not learn the key
    identity     signing keys of clients, against a server that may lie
    certificate  numbers of neighbours and shares that are enough, and the probabilities with which they are not
    graph        the clients that hold each client's shares, and the pairs that mask with each other
    framing      wire format: a header, and tables of rows
    messages     the messages of the protocol
    session      the session id: everything on which all parties must agree, bound into every key
    memory       a client's memory from one attempt to the next
    client       the client's side of one round, a state machine
    boxes        encrypted shares on their way through the server
    unmasking    reconstruction of secrets from shares, and removal of masks from the sum
    server       the server's side of one round, a state machine
    simulation   all roles in one process
    dropout      the clients that are lost in a simulation
    transcript   the record that a real server could have kept
    two_faced    a malicious server that sends its clients different models, for simulations of its attack

The protocol is that of Bonawitz et al. 2017 ("Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS
2017), on a complete graph or a sparse one (Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead", CCS 2020), against a semi-honest server or an active one.

Guarantees:
    Assume that nobody breaks X25519, HKDF-SHA256, AES-256, ChaCha20-Poly1305 or Ed25519. Let the server collude with at most as
    many clients of the roster as the policy allows, which is always at least one. Then, except with the probability in the
    round's certificate, the server learns the survivors' *sum* and public data, and nothing else about the other clients'
    vectors. ``docs/secagg.md`` has the assumptions.

    Not promised: protection against poisoned inputs; secrecy of one client if all others are corrupt. Secure aggregation hides
    *who*, not *whether*: a sum over few clients, or of the same clients round after round, still leaks, and only differential
    privacy bounds how much. Nothing here runs in constant time, and bytes cannot be erased for certain.
"""
