//! Routers that speak BGP: Calico's tools read the control sockets, and a daemon that is killed
//! loses no route of its own or of its peers.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use margay::lab::network::{Network, NetworkSpec};
use margay::lab::report::Report;
use margay::lab::{bgp, process};

/// Learnt routes in a kernel carry this.
const PROTOCOL: &str = "159";
/// How long the killed daemon is away.
const AWAY: Duration = Duration::from_secs(2);
/// How long after its return the kernels are watched.
const WATCHED: Duration = Duration::from_secs(8);

fn network() -> Network {
    let mut network = Network::start(NetworkSpec { bgp: true, ..crate::margay(1500) }).unwrap();
    bgp::established(&mut network, &mut Report::default()).unwrap();
    bgp::learnt(&mut network).unwrap();
    network
}

/// Learnt routes of a namespace's kernel, as text.
fn kernel_routes(namespace: &str) -> String {
    let list = |family| {
        let args = ["-n", namespace, family, "route", "show", "proto", PROTOCOL];
        process::run_ok(process::command("ip", &args), "", Duration::from_secs(5)).unwrap()
    };
    list("-4") + &list("-6")
}

/// A command and its answer's lines.
fn ask(socket: &Path, command: &str) -> Vec<String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().starts_with("0001 BIRD "));
    writeln!(stream, "{command}").unwrap();
    let mut answer = Vec::new();
    for line in lines {
        // The last line has a space behind its code.
        let is_last = line.get(..4).is_some_and(|code| code.parse::<u16>().is_ok())
            && line.as_bytes().get(4) == Some(&b' ');
        answer.push(line);
        if is_last {
            break;
        }
    }
    answer
}

#[test]
fn calicos_tools_can_read_the_control_sockets() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let network = network();
    let directory = network.scope().directory().join("edge1-bird");
    let sessions = ask(&directory.join("bird.ctl"), "show protocols");
    let mesh = sessions.iter().find(|line| line.contains("Mesh_172_30_0_2")).unwrap();
    let words: Vec<&str> = mesh.split_whitespace().collect();
    assert_eq!((words[1], words[3], words[5]), ("BGP", "up", "Established"), "{mesh}");
    assert!(!sessions.iter().any(|line| line.contains("Mesh_fd30")), "{sessions:?}");
    let sessions = ask(&directory.join("bird6.ctl"), "show protocols all Mesh_fd30__2");
    assert!(sessions.iter().any(|line| line.trim() == "BGP state:          Established"));
    let status = ask(&directory.join("bird.ctl"), "show status");
    assert_eq!(status.last().unwrap(), "0013 Daemon is up and running");
    let routes = ask(&directory.join("bird.ctl"), "show route");
    let block = routes.iter().find(|line| line.contains("10.65.32.0/20")).unwrap();
    assert!(block.contains("via 172.30.0.2 on fabric0 [Mesh_172_30_0_2 "), "{block}");
    assert!(block.contains("] * "), "{block}");
    let own = routes.iter().find(|line| line.contains("10.65.16.0/20")).unwrap();
    assert!(own.contains("blackhole [static1 "), "{own}");
}

/// RFC 4724: forwarding state is kept on both sides while the daemon is away.
#[test]
fn a_killed_daemon_costs_no_kernel_a_route() {
    let Some(_turn) = crate::turn(&[]) else { return };
    let mut network = network();
    let names = [network.nodes[0].namespace(), network.nodes[1].namespace(), &network.tor]
        .map(|namespace| namespace.name().to_owned());
    let before = names.each_ref().map(|name| kernel_routes(name));
    assert!(before.iter().all(|routes| routes.lines().count() >= 2), "{before:?}");
    let same = |when: &str| {
        for (name, before) in names.iter().zip(&before) {
            assert_eq!(kernel_routes(name), *before, "{when}, on {name}");
        }
    };
    network.nodes[0].daemon().unwrap().kill();
    let killed = Instant::now();
    while killed.elapsed() < AWAY {
        same("while the daemon is away");
    }
    let daemon = network.nodes[0].daemon().unwrap();
    daemon.restart().unwrap();
    let restarted = Instant::now();
    while restarted.elapsed() < WATCHED {
        same("after its return");
        std::thread::sleep(Duration::from_millis(50));
    }
    bgp::established(&mut network, &mut Report::default()).unwrap();
    bgp::learnt(&mut network).unwrap();
    same("in the end");
}
