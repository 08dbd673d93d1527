use super::*;
use crate::kernel::Link;
use crate::kernel::message::Update;

fn mirror(links: &[(u32, &str, u32, bool)]) -> Mirror {
    let mut mirror = Mirror::default();
    for (index, name, mtu, up) in links {
        mirror.apply(Update::Link(Link {
            index: *index,
            name: (*name).to_owned(),
            kind: "veth".into(),
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            mtu: *mtu,
            up: *up,
            running: *up,
        }));
    }
    mirror
}

fn wanted(names: &[(&str, PortKind)]) -> BTreeMap<Arc<str>, PortKind> {
    names.iter().map(|(name, kind)| (Arc::from(*name), kind.clone())).collect()
}

fn open(ports: &mut Ports, name: &str, device: Option<(u32, u32)>) -> PortId {
    let (id, worker) = ports.reserve().unwrap();
    let opened = Opened {
        parts: Vec::new(),
        mac: Mac([2, 0, 0, 0, 0, 1]),
        station: None,
        mtu: None,
        keep: Default::default(),
    };
    ports.opened(&name.into(), Open::new(id, worker, device, opened));
    id
}

fn opens(plan: &Plan) -> Vec<&str> {
    plan.open.iter().map(|(name, _)| &**name).collect()
}

fn closes(plan: &Plan) -> Vec<&str> {
    plan.close.iter().map(|name| &**name).collect()
}

#[test]
fn a_port_lives_as_its_device_does() {
    let (mut ports, now) = (Ports::new(2), Instant::now());
    let all = wanted(&[("cali1", PortKind::Veth), ("up0", PortKind::Uplink)]);
    let plan = ports.plan(&all, &mirror(&[(5, "cali1", 1500, true), (6, "up0", 1500, false)]), now);
    assert_eq!(opens(&plan), ["cali1"], "up0 is down");
    open(&mut ports, "cali1", Some((5, 1500)));
    let both = mirror(&[(5, "cali1", 1500, true), (6, "up0", 1500, true)]);
    assert_eq!(opens(&ports.plan(&all, &both, now)), ["up0"]);
    open(&mut ports, "up0", Some((6, 1500)));
    assert_eq!(ports.plan(&all, &both, now), Plan::default());

    for changed in [(7, "cali1", 1500, true), (5, "cali1", 9000, true)] {
        let plan = ports.plan(&all, &mirror(&[changed, (6, "up0", 1500, true)]), now);
        assert_eq!(closes(&plan), ["cali1"], "recreated, or another MTU");
    }
    let flapped = mirror(&[(5, "cali1", 1500, false), (6, "up0", 1500, true)]);
    assert_eq!(ports.plan(&all, &flapped, now), Plan::default(), "down is not gone");
    let unwanted = wanted(&[("up0", PortKind::Uplink)]);
    assert_eq!(closes(&ports.plan(&unwanted, &both, now)), ["cali1"]);
    ports.closed(&"cali1".into(), "", now);
    ports.plan(&unwanted, &both, now);
    assert_eq!(ports.iter().count(), 1);
}

#[test]
fn failures_are_tried_again_with_pauses_and_a_new_device_at_once() {
    let (mut ports, start) = (Ports::new(1), Instant::now());
    let all = wanted(&[("cali1", PortKind::Veth)]);
    let here = mirror(&[(5, "cali1", 1500, true)]);
    let error = OpenError("busy".into());
    let mut now = start;
    let mut pauses = Vec::new();
    for turn in 0..8 {
        assert_eq!(opens(&ports.plan(&all, &here, now)), ["cali1"]);
        let (id, _) = ports.reserve().unwrap();
        let news = ports.failed(&"cali1".into(), Some(id), Some(5), &error, now);
        assert_eq!(news, turn == 0, "the same fault is told once");
        assert_eq!(opens(&ports.plan(&all, &here, now)), [""; 0]);
        let next = ports.next_try().unwrap();
        pauses.push((next - now).as_millis());
        now = next;
    }
    assert_eq!(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    let (id, _) = ports.reserve().unwrap();
    ports.failed(&"cali1".into(), Some(id), Some(5), &error, now);
    let another = mirror(&[(9, "cali1", 1500, true)]);
    assert_eq!(opens(&ports.plan(&all, &another, now)), ["cali1"]);
    ports.plan(&all, &mirror(&[]), now);
    assert_eq!(ports.next_try(), None, "without a device nothing is tried");
}

#[test]
fn a_port_that_went_by_itself_is_opened_after_a_pause() {
    let (mut ports, now) = (Ports::new(1), Instant::now());
    let all = wanted(&[("cali1", PortKind::Veth)]);
    let here = mirror(&[(5, "cali1", 1500, true)]);
    ports.plan(&all, &here, now);
    open(&mut ports, "cali1", Some((5, 1500)));
    ports.closed(&"cali1".into(), "the device is gone", now);
    ports.pause(&"cali1".into(), now);
    assert_eq!(ports.plan(&all, &here, now), Plan::default());
    assert_eq!(opens(&ports.plan(&all, &here, ports.next_try().unwrap())), ["cali1"]);
}

#[test]
fn numbers_are_used_again_and_workers_share_evenly() {
    let (mut ports, now) = (Ports::new(2), Instant::now());
    let names: Vec<String> = (0..10).map(|at| format!("tap{at}")).collect();
    let kinds: Vec<(&str, PortKind)> =
        names.iter().map(|name| (name.as_str(), PortKind::Host)).collect();
    ports.plan(&wanted(&kinds), &mirror(&[]), now);
    let ids: Vec<PortId> = names.iter().map(|name| open(&mut ports, name, None)).collect();
    assert_eq!(ids, (0..10).map(PortId).collect::<Vec<_>>());
    let on_first = ports.open().filter(|(_, _, open)| open.worker == 0).count();
    assert_eq!(on_first, 5);
    ports.closed(&"tap3".into(), "", now);
    assert_eq!(ports.reserve().unwrap().0, PortId(3));
    assert_eq!(ports.name_of(PortId(4)).as_deref(), Some("tap4"));
}
