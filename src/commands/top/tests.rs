use super::*;
use margay_control::api::ports::PortAnswer;
use margay_control::api::workers::{StageAnswer, WorkerAnswer};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use rates::short;

fn sample(uptime_ms: u64, packets: u64) -> Sample {
    let stage = StageAnswer { name: "parse".into(), cycles: packets * 20, packets };
    Sample {
        node: "edge1".into(),
        uptime_milliseconds: uptime_ms,
        ready: true,
        routes: 12,
        bgp: None,
        limits: Vec::new(),
        ports: vec![PortAnswer {
            name: "eth0".into(),
            state: "open".into(),
            rx_packets: packets,
            rx_bytes: packets * 100,
            ..PortAnswer::default()
        }],
        workers: vec![WorkerAnswer {
            core: Some(1),
            state: "busy".into(),
            forwarded: packets,
            dropped: 4,
            stages: vec![stage],
            drops: [("no-route".to_owned(), 4)].into(),
            ..WorkerAnswer::default()
        }],
    }
}

fn stream(samples: &[Sample]) -> Vec<u8> {
    let line = |sample| serde_json::to_string(sample).unwrap() + "\n";
    samples.iter().map(line).collect::<String>().into_bytes()
}

#[test]
fn rates_are_differences_by_time() {
    let rates = Rates::between(&sample(1000, 1000), &sample(3000, 5000));
    assert_eq!((rates.ports[0].rx_packets, rates.ports[0].rx_bits), (2000.0, 1_600_000.0));
    assert_eq!((rates.workers[0].forwarded, rates.workers[0].cycles), (2000.0, 20.0));
    assert_eq!(rates.drops, [("no-route".to_owned(), 0.0, 4)]);
}

#[test]
fn a_counter_that_began_anew_and_a_first_sample_have_rate_0() {
    let rates = Rates::between(&sample(1000, 5000), &sample(2000, 10));
    assert_eq!(rates.ports[0].rx_packets, 0.0);
    let first = sample(1000, 5000);
    assert_eq!(Rates::between(&first, &first).ports[0].rx_packets, 0.0);
}

#[test]
fn numbers_are_short() {
    let cases = [
        (0.0, "0"),
        (999.4, "999"),
        (999.6, "1.00k"),
        (1_234.0, "1.23k"),
        (12_340.0, "12.3k"),
        (999_600.0, "1.00M"),
        (17.8e9, "17.8G"),
        (4.2e15, "4200T"),
    ];
    for (value, text) in cases {
        assert_eq!(short(value), text);
    }
}

#[test]
fn the_screen_shows_ports_workers_and_drops() {
    let rates = Rates::between(&sample(1000, 1000), &sample(2000, 3000));
    let mut terminal = Terminal::new(TestBackend::new(100, 14)).unwrap();
    terminal.draw(|frame| view::draw(frame, &rates)).unwrap();
    let screen = terminal.backend().to_string();
    for text in
        ["edge1: ready, up 2 s, 12 routes", "eth0", "2.00k", "1.60M", "no-route", "q: leave"]
    {
        assert!(screen.contains(text), "{text} is not on\n{screen}");
    }
    // Smaller than anything needs: it must not panic.
    let mut tiny = Terminal::new(TestBackend::new(5, 2)).unwrap();
    tiny.draw(|frame| view::draw(frame, &rates)).unwrap();
}

#[test]
fn no_terminal_gets_plain_text_for_each_sample() {
    let input = stream(&[sample(1000, 1000), sample(2000, 3000), sample(3000, 3000)]);
    let mut out = Vec::new();
    plain(&input[..], &mut out, 2).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.matches("edge1: ready").count(), 2);
    assert!(text.contains("2.00k") && !text.contains('\x1b'));
    let mut out = Vec::new();
    assert!(plain(&b"nonsense\n"[..], &mut out, 2).is_err());
}
