"""BOOK of secure aggregation: the server learns the sum of the clients' vectors, and no single one.

Chapters, in reading order::

    prg          a key becomes a mask as long as the model
    packing      words on the wire
    encoding     real vectors become integers modulo 2^bits, where sums are exact and masks are perfect
    field        numbers in which secrets are shared
    shamir       shares of a secret
    sharing      tags by which a share that is shown later is known
    agreement    two clients agree on a secret that the server, who carries their messages, does not have
    identity     who is who, against a server that may lie
    certificate  how many neighbours and shares are enough, and with which probability they are not
    graph        who holds whose shares, and who masks with whom
    framing      the one encoding of what travels: a header, and tables of rows
    messages     what travels, message by message
    session      what everybody must agree on, bound into every key
    memory       what a client remembers from one attempt to the next
    client       the client's side of one round, a state machine
    boxes        shares on their way through the server
    unmasking    secrets put together from shares, masks taken from the sum
    server       the server's side
    play         all roles in one process
    losses       who is lost in a simulation
    transcript   what a real server would have written down
    two_faced    a malicious server that sent its clients different models

The protocol is that of Bonawitz et al. 2017 ("Practical Secure Aggregation for Privacy-Preserving Machine Learning", CCS
2017), on a complete graph or a sparse one (Bell et al. 2020, "Secure Single-Server Aggregation with (Poly)Logarithmic
Overhead", CCS 2020), against a semi-honest server or an active one.

Guarantees:
    Up to breaking X25519, HKDF-SHA256, AES-256, ChaCha20-Poly1305 or Ed25519, and up to the probability in the round's
    certificate, a server in league with at most as many clients of the roster as the policy allows for, and one at the least,
    learns the survivors' *sum* and public data, and nothing else about the other clients' vectors. ``docs/secagg.md`` has the
    assumptions.

    Not promised: protection against poisoned inputs; secrecy of the one among corrupt others. Secure aggregation hides *who*,
    not *whether*: a sum over few clients, or of the same clients round after round, still leaks, and only differential
    privacy bounds how much. Nothing here runs in constant time, and bytes cannot be erased for certain.
"""
