//! Whole packets, byte by byte, written by hand from RFC 791, RFC 8200, RFC 9293, RFC 768 and the table of TOA
//! formats. Their checksums were added up apart from this code base, field by field.

use turnpike_testbed::director::{Toa, Verdict};

use crate::rig::{ALIBABA, DPVS, Rig};

/// The bytes of hexadecimal text; everything after `;` in a line is for the reader.
fn hex(text: &str) -> Vec<u8> {
    let code = text.lines().flat_map(|line| line.split(';').next().unwrap().chars());
    let digits: Vec<u32> = code.filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair[1]).unwrap()).collect()
}

/// Packets in, and what must come out, in order.
fn assert_vectors(toa: Option<Toa>, steps: &[(Verdict, &str, &str)]) {
    let mut rig = Rig::new(toa);
    for (number, (verdict, packet, expected)) in (1..).zip(steps) {
        let (found, out) = rig.handle(&hex(packet));
        assert_eq!(found, *verdict, "packet {number}");
        assert_eq!(out, hex(expected), "packet {number}");
    }
}

const SYN4: &str = "
    4500002c 12344000 3d065f84 c000020a 0a090001    ; 192.0.2.10 → 10.9.0.1
    9c410050 11223344 00000000 6002fd20 edf90000    ; 40001 → 80, SYN
    020405b4                                        ; MSS 1460";

#[test]
fn a_syn_over_ipv4_with_alibabas_rule() {
    let out = "
        45000034 12344000 3d06158e 0a090101 0af40005    ; 8 longer, 10.9.1.1 → 10.244.0.5
        04011f90 11223344 00000000 8002fd20 a0ae0000    ; 1025 → 8080, header of 8 words
        fe08 9c41 c000020a                              ; 254, 8, port 40001, 192.0.2.10
        020405b4";
    assert_vectors(Some(ALIBABA), &[(Verdict::ToServer, SYN4, out)]);
}

#[test]
fn a_syn_over_ipv6_with_alibabas_rule() {
    let packet = "
        60012345 0018063d
        fd00000c000000000000000000000010                ; fd00:c::10
        fd000009000000000000000000000001                ; → fd00:9::1
        9c410050 11223344 00000000 6002fd20 bffa0000
        020405a0";
    let out = "
        60012345 002c063d                               ; 20 longer
        fd000009000100000000000000000001                ; fd00:9:1::1
        fd000244000000000000000000000005                ; → fd00:244::5
        04011f90 11223344 00000000 b002fd20 4f450000    ; header of 11 words
        fe14 9c41 fd00000c000000000000000000000010      ; 254, 20, port 40001, fd00:c::10
        020405a0";
    assert_vectors(Some(ALIBABA), &[(Verdict::ToServer, packet, out)]);
}

#[test]
fn a_handshake_with_dpvs_rule_and_data_in_the_third_segment() {
    let syn_out = "
        4500002c 12344000 3d061596 0a090101 0af40005
        04011f90 11223344 00000000 6002fd20 1d0c0000    ; the SYN carries none
        020405b4";
    let syn_ack = "
        4500002c 00004000 400624ca 0af40005 0a090101
        1f900401 ffffffff 11223345 6012fe88 1b930000    ; the server's first byte will be number 0
        020405b4";
    let syn_ack_out = "
        4500002c 00004000 40066eb8 0a090001 c000020a
        00509c41 ffffffff 11223345 6012fe88 ec880000
        020405ac                                        ; MSS 1452: 8 bytes of room";
    let data = "
        45000036 12354000 3d065f79 c000020a 0a090001
        9c410050 11223345 00000000 8018fd20 64190000
        0101080a 00000001 00000002                      ; timestamps
        6869";
    let data_out = "
        4500003e 12354000 3d061583 0a090101 0af40005
        04011f90 11223345 00000000 a018fd20 16ce0000
        fe08 9c41 c000020a                              ; before the client's own options
        0101080a 00000001 00000002
        6869";
    assert_vectors(
        Some(DPVS),
        &[
            (Verdict::ToServer, SYN4, syn_out),
            (Verdict::ToClient, syn_ack, syn_ack_out),
            (Verdict::ToServer, data, data_out),
        ],
    );
}

#[test]
fn a_datagram_of_odd_length() {
    let packet = "
        4500001f 12344000 3d115f86 c000020a 0a090001
        9c410050 000bd2cf 616263";
    let out = "
        4500001f 12344000 3d111598 0a090101 0af40005
        04011f90 000b01e2 616263";
    assert_vectors(None, &[(Verdict::ToServer, packet, out)]);
}
