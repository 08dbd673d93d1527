use super::*;

#[test]
fn ping_counts_and_the_mtu_that_a_router_names() {
    let text = "PING 10.0.0.1 (10.0.0.1) 1472(1500) bytes of data.\n\
        From 172.30.0.1 icmp_seq=1 Frag needed and DF set (mtu = 1400)\n\n\
        --- 10.0.0.1 ping statistics ---\n\
        3 packets transmitted, 1 received, +2 errors, 66% packet loss, time 40ms\n";
    let result = parse_ping(text).unwrap();
    assert_eq!((result.sent, result.received, result.mtu), (3, 1, Some(1400)));
}

#[test]
fn ping_mtu_in_the_other_wordings() {
    let tail = "3 packets transmitted, 0 received, +3 errors, 100% packet loss, time 40ms\n";
    let router = "From fd30::1 icmp_seq=1 Packet too big: mtu=1400\n";
    let own = "ping: local error: message too long, mtu: 1400\n";
    for text in [router, own] {
        assert_eq!(parse_ping(&format!("{text}{tail}")).unwrap().mtu, Some(1400), "{text}");
    }
    assert_eq!(parse_ping(tail).unwrap().mtu, None);
}

#[test]
fn ping_that_could_not_start_is_an_error_with_its_words() {
    let error = parse_ping("ping: connect: Network is unreachable\n").unwrap_err();
    assert!(error.to_string().contains("Network is unreachable"));
}

#[test]
fn iperf_tcp_and_udp_results() {
    let tcp = r#"{"end":{"sum_sent":{"retransmits":4},
        "sum_received":{"bits_per_second":2.5e9,"seconds":1.0}}}"#;
    let result = parse_iperf(tcp).unwrap();
    assert_eq!((result.bits_per_s, result.retransmits, result.packets), (2.5e9, 4, 0));
    let udp = r#"{"end":{"sum":{"packets":100,"lost_packets":2},
        "sum_received":{"bits_per_second":1e8,"seconds":1.0}}}"#;
    let result = parse_iperf(udp).unwrap();
    assert_eq!((result.packets, result.lost), (100, 2));
    let error = parse_iperf(r#"{"error":"unable to connect"}"#).unwrap_err();
    assert!(error.to_string().contains("unable to connect"));
}

#[test]
fn traceroute_hops_without_the_silent_ones() {
    let text = "traceroute to 10.65.32.10 (10.65.32.10), 6 hops max, 60 byte packets\n\
        \x201  172.31.1.1  0.3 ms  0.1 ms\n 2  * *\n 3  * 10.65.32.10  0.2 ms\n";
    let hops: Vec<String> = parse_traceroute(text).iter().map(IpAddr::to_string).collect();
    assert_eq!(hops, ["172.31.1.1", "10.65.32.10"]);
}

#[test]
fn checksum_errors_of_all_protocols() {
    let v4 = "Ip: Forwarding InHdrErrors\nIp: 1 2\nTcp: InSegs InCsumErrors\nTcp: 9 3\n\
        Udp: InCsumErrors\nUdp: 4\n";
    let v6 = "Ip6InReceives 7\nIp6InHdrErrors 1\nUdp6InCsumErrors 5\n";
    assert_eq!(count_checksum_errors(v4, v6), 15);
}
