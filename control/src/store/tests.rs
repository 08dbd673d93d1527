pub(crate) mod addresses;
pub(crate) mod contract;
pub(crate) mod memory;

use super::directory::Directory;
use super::*;
use crate::scratch;

fn node(name: &str, address: &str) -> String {
    format!(
        "apiVersion: projectcalico.org/v3\nkind: Node\nmetadata: {{name: {name}}}\n\
         spec: {{bgp: {{ipv4Address: {address}}}}}\n"
    )
}

fn names(events: &[Event]) -> Vec<String> {
    let name = |event: &Event| match event {
        Event::Put(key, _) => format!("+{key}"),
        Event::Remove(key) => format!("-{key}"),
    };
    events.iter().map(name).collect()
}

#[test]
fn documents_lists_and_json_are_read() {
    let scratch = scratch::Directory::new("store");
    let two = format!("# nodes\n{}---\n\n---\n{}", node("a", "10.0.0.1/24"), node("b", "10.0.0.2"));
    scratch.write("nodes.yaml", &two);
    scratch.write(
        "list.json",
        r#"{"apiVersion":"v1","kind":"List","items":[
            {"apiVersion":"projectcalico.org/v3","kind":"IPPool","metadata":{"name":"p"},
             "spec":{"cidr":"192.168.0.0/16"}},
            {"apiVersion":"projectcalico.org/v3","kind":"Tier","metadata":{"name":"t"},
             "spec":{}}]}"#,
    );
    scratch.write(
        "blocks.yml",
        "kind: BlockAffinityList\nitems:\n- kind: BlockAffinity\n  metadata: {name: a-1}\n  \
         spec: {state: confirmed, node: a, cidr: 192.168.0.0/26, deleted: 'false'}\n",
    );
    scratch.write("notes.txt", "not: [ours");
    let mut directory = Directory::new(scratch.path());
    let events = directory.scan();
    let expected = ["+BlockAffinity a-1", "+IPPool p", "+Node a", "+Node b", "+Tier t"];
    assert_eq!(names(&events), expected);
    assert_eq!(directory.report().faults, []);
    assert_eq!((directory.report().files, directory.report().resources["Node"]), (3, 2));
    let Event::Put(_, Resource::Node(b)) = &events[3] else { panic!("{events:?}") };
    assert_eq!(b.ipv4, Some("10.0.0.2/32".parse().unwrap()));
    assert_eq!(directory.scan(), []);
}

#[test]
fn changes_are_told_and_nothing_else() {
    let scratch = scratch::Directory::new("store");
    scratch.write("a.yaml", &node("a", "10.0.0.1/24"));
    let b = scratch.write("b.yaml", &node("b", "10.0.0.2/24"));
    let mut directory = Directory::new(scratch.path());
    assert_eq!(directory.scan().len(), 2);
    scratch.write("a.yaml", &node("a", "10.0.0.9/24"));
    assert_eq!(names(&directory.scan()), ["+Node a"]);
    std::fs::rename(&b, scratch.path().join("c.yaml")).unwrap();
    assert_eq!(directory.scan(), [], "a resource that moves to another file is the same");
    std::fs::remove_file(scratch.path().join("c.yaml")).unwrap();
    assert_eq!(names(&directory.scan()), ["-Node b"]);
}

#[test]
fn a_file_that_does_not_parse_keeps_its_last_good_content() {
    let scratch = scratch::Directory::new("store");
    scratch.write("a.yaml", &node("a", "10.0.0.1/24"));
    let mut directory = Directory::new(scratch.path());
    directory.scan();
    scratch.write("a.yaml", "kind: Node\nmetadata: {name: a\nspec: [\n");
    assert_eq!(directory.scan(), []);
    let fault = &directory.report().faults[0];
    assert!(fault.file.ends_with("a.yaml") && fault.line >= 2, "{fault}");
    assert!(fault.mend.contains("last good"), "{fault}");
    scratch.write("a.yaml", &node("a", "10.0.0.3/24"));
    assert_eq!(names(&directory.scan()), ["+Node a"]);
    assert_eq!(directory.report().faults, []);
}

#[test]
fn an_invalid_resource_keeps_its_last_good_form_and_its_neighbours_change() {
    let scratch = scratch::Directory::new("store");
    let file = |a: &str, b: &str| format!("{}---\n{}", node("a", a), node("b", b));
    scratch.write("n.yaml", &file("10.0.0.1/24", "10.0.0.2/24"));
    let mut directory = Directory::new(scratch.path());
    directory.scan();
    scratch.write("n.yaml", &file("10.0.0.300/24", "10.0.0.4/24"));
    assert_eq!(names(&directory.scan()), ["+Node b"]);
    let fault = &directory.report().faults[0];
    assert_eq!(fault.line, 1);
    assert!(fault.what.contains("spec.bgp.ipv4Address: '10.0.0.300/24'"), "{fault}");
    assert!(fault.mend.contains("10.0.0.7/24"), "{fault}");
}

#[test]
fn one_key_in_two_files_is_taken_from_the_first_and_reported() {
    let scratch = scratch::Directory::new("store");
    let first = scratch.write("1.yaml", &node("a", "10.0.0.1/24"));
    scratch.write("2.yaml", &node("a", "10.0.0.2/24"));
    let mut directory = Directory::new(scratch.path());
    let events = directory.scan();
    let Event::Put(_, Resource::Node(a)) = &events[0] else { panic!("{events:?}") };
    assert_eq!(a.ipv4, Some("10.0.0.1/24".parse().unwrap()));
    assert!(directory.report().faults[0].file.ends_with("2.yaml"));
    std::fs::remove_file(first).unwrap();
    assert_eq!(names(&directory.scan()), ["+Node a"]);
}

#[test]
fn a_directory_that_vanishes_takes_nothing_with_it() {
    let scratch = scratch::Directory::new("store");
    let inner = scratch.path().join("inner");
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("a.yaml"), node("a", "10.0.0.1/24")).unwrap();
    let mut directory = Directory::new(&inner);
    assert!(!directory.is_known());
    assert_eq!(directory.scan().len(), 1);
    assert!(directory.is_known());
    std::fs::remove_dir_all(&inner).unwrap();
    assert_eq!(directory.scan(), []);
    assert_eq!(directory.report().faults.len(), 1);
}

/// Each case: a resource, and the field that its fault names (`-` when there is none).
#[test]
fn limits_of_the_api_are_kept() {
    let pool = |spec: &str| format!("kind: IPPool\nmetadata: {{name: p}}\nspec: {{{spec}}}\n");
    let endpoint = |spec: &str, annotations: &str| {
        format!(
            "kind: WorkloadEndpoint\nmetadata: {{name: e, annotations: {{{annotations}}}}}\n\
             spec: {{node: n, interfaceName: cali1, {spec}}}\n"
        )
    };
    let cases = [
        (pool("cidr: 10.0.0.0/16, blockSize: 20"), "-"),
        (pool("cidr: 10.0.0.0/16, blockSize: 32"), "-"),
        (pool("cidr: 10.0.0.0/16, blockSize: 33"), "spec.blockSize"),
        (pool("cidr: 10.0.0.0/16, blockSize: 19"), "spec.blockSize"),
        (pool("cidr: 10.0.0.0/28"), "spec.blockSize"),
        (pool("cidr: 'fd00::/64', blockSize: 116"), "-"),
        (pool("cidr: 'fd00::/64', blockSize: 115"), "spec.blockSize"),
        (pool("cidr: 10.0.0.1/16"), "spec.cidr"),
        (pool("cidr: 169.254.1.0/24"), "spec.cidr"),
        (pool("cidr: 'fe80::/64'"), "spec.cidr"),
        (pool("cidr: 10.0.0.0/16, ipipMode: Always, vxlanMode: Always"), "spec.vxlanMode"),
        (pool("cidr: 'fd00::/64', ipipMode: Always"), "spec.ipipMode"),
        (pool("cidr: 10.0.0.0/16, ipipMode: Sometimes"), "Sometimes"),
        (endpoint("ipNetworks: [10.0.0.1/32, 'fd00::1/128']", ""), "-"),
        (endpoint("ipNetworks: [10.0.0.0/31]", ""), "spec.ipNetworks"),
        (endpoint("mac: zz", ""), "spec.mac"),
        (endpoint("mac: 'EE:ee:ee:ee:ee:ee'", ""), "-"),
        (endpoint("", "margay.io/attachment: tc"), "-"),
        (endpoint("", "margay.io/attachment: tap"), "margay.io/netns"),
        (endpoint("", "margay.io/attachment: tap, margay.io/netns: /run/netns/x"), "-"),
        (endpoint("", "margay.io/attachment: wire"), "margay.io/attachment"),
        ("kind: BlockAffinity\nmetadata: {name: x}\nspec: {state: maybe}\n".into(), "spec.state"),
        ("kind: Node\nmetadata: {name: Upper}\n".into(), "metadata.name"),
        ("metadata: {name: x}\n".into(), "no kind"),
    ];
    for (text, field) in cases {
        let scratch = scratch::Directory::new("store");
        scratch.write("x.yaml", &text);
        let mut directory = Directory::new(scratch.path());
        let events = directory.scan();
        let faults = &directory.report().faults;
        match field {
            "-" => assert!(faults.is_empty() && events.len() == 1, "{text}: {faults:?}"),
            _ => assert!(faults.len() == 1 && faults[0].what.contains(field), "{text}: {faults:?}"),
        }
    }
}

#[test]
fn affinities_count_only_when_confirmed() {
    let affinity = |state: &str, rest: &str| {
        format!(
            "kind: BlockAffinity\nmetadata: {{name: x}}\n\
             spec: {{state: {state}, node: n, cidr: 10.0.0.0/26{rest}}}\n"
        )
    };
    let cases = [
        (affinity("confirmed", ""), true),
        (affinity("''", ""), true),
        (affinity("pending", ""), false),
        (affinity("pendingDeletion", ""), false),
        (affinity("confirmed", ", deleted: 'true'"), false),
        (affinity("confirmed", ", type: virtual"), false),
    ];
    for (text, expected) in cases {
        let content = document::read("x", &text).unwrap();
        let (_, _, Resource::BlockAffinity(affinity)) = &content.resources[0] else { panic!() };
        assert_eq!(affinity.confirmed, expected, "{text}");
    }
}

#[test]
fn the_live_watch_tells_of_changes() {
    let scratch = scratch::Directory::new("watch");
    scratch.write("a.yaml", &node("a", "10.0.0.1/24"));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let mut batches = watch::start(Directory::new(scratch.path()));
        let limit = std::time::Duration::from_secs(4);
        let first = tokio::time::timeout(limit, batches.recv()).await.unwrap().unwrap();
        assert_eq!(names(&first.events), ["+Node a"]);
        scratch.write("b.yaml", &node("b", "10.0.0.2/24"));
        let second = tokio::time::timeout(limit, batches.recv()).await.unwrap().unwrap();
        assert_eq!(names(&second.events), ["+Node b"]);
        let temporary = scratch.write("b.tmp", &node("b", "10.0.0.3/24"));
        std::fs::rename(temporary, scratch.path().join("b.yaml")).unwrap();
        let third = tokio::time::timeout(limit, batches.recv()).await.unwrap().unwrap();
        assert_eq!(names(&third.events), ["+Node b"]);
    });
}

/// A new authority, with a certificate for the server and one for the client.
pub(crate) fn certificates(folder: &std::path::Path) -> bool {
    let make = "set -e; cd \"$0\"; exec 2>/dev/null
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
            -subj /CN=authority -keyout ca.key -out ca.pem
        for who in server client; do
            openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=$who \
                -keyout $who.key -out $who.csr
            printf 'subjectAltName=IP:127.0.0.1\\nextendedKeyUsage=serverAuth,clientAuth\\n' >ext
            openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                -extfile ext -out $who.pem
        done";
    std::process::Command::new("sh")
        .args(["-c", make])
        .arg(folder)
        .status()
        .is_ok_and(|done| done.success())
}
