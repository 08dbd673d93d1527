//! The scaffolding itself, with the kernel in margay's place: what fails here is no fault of the
//! daemon.

use margay::lab::measure::{PingSpec, ping};
use margay::lab::network::{Network, NetworkSpec};
use margay::lab::node::Router;
use margay::lab::{requirements, steps};

#[test]
fn the_same_network_works_with_kernel_forwarding() {
    let Some(_turn) = crate::turn(requirements::STEPS) else { return };
    let spec = NetworkSpec { router: Router::Kernel, ..crate::margay(1500) };
    let mut network = Network::start(spec).unwrap();
    let directory = network.scope().directory();
    for node in &network.nodes {
        for target in node.pods().iter().flat_map(|pod| pod.addresses()) {
            let result = ping(&network.outside, PingSpec::to(target)).unwrap();
            assert_eq!((result.sent, result.received), (3, 3), "{}", result.text);
        }
    }
    steps::traceroute(&mut network).unwrap();
    steps::fragments(&mut network).unwrap();
    steps::too_big(&mut network).unwrap();
    assert_eq!(steps::checksum_errors(&network).unwrap(), 0);
    drop(network);
    assert!(!directory.exists());
}
