//! etcd servers as `./run-tests` has unpacked them, in directories of their own, on loopback.

use super::super::{Connection, Etcd};
use crate::config::{StoreConfig, StoreKind};
use crate::scratch;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a server to be there.
const START: Duration = Duration::from_secs(20);

/// A cluster, of which members may be down.
pub(crate) struct Cluster {
    scratch: scratch::Directory,
    members: Vec<Member>,
    more: Vec<String>,
    scheme: &'static str,
}

struct Member {
    client: u16,
    peer: u16,
    child: Option<Child>,
}

/// The binary; none says SKIPPED.
fn binary() -> Option<PathBuf> {
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| house.join("target"), |path| house.join(path));
    let unpacked = target.join("peers/etcd-server/usr/bin/etcd");
    let installed = PathBuf::from("/usr/bin/etcd");
    let found = [unpacked, installed].into_iter().find(|path| path.exists());
    if found.is_none() {
        println!("SKIPPED: etcd is not there: ./run-tests unpacks it (package etcd-server)");
    }
    found
}

/// Ports that nobody listens on.
fn ports<const N: usize>() -> [u16; N] {
    let bound: Vec<TcpListener> =
        (0..N).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    std::array::from_fn(|at| bound[at].local_addr().unwrap().port())
}

impl Cluster {
    /// A running cluster of this many members; none where etcd is not there.
    pub(crate) fn start(members: usize) -> Option<Cluster> {
        Cluster::with(members, "http", |_| Vec::new())
    }

    /// One whose members get further arguments, which may name files of its directory.
    pub(crate) fn with(
        members: usize,
        scheme: &'static str,
        more: impl FnOnce(&Path) -> Vec<String>,
    ) -> Option<Cluster> {
        binary()?;
        let scratch = scratch::Directory::new("etcd");
        let more = more(scratch.path());
        let ports: [u16; 6] = ports();
        let member =
            |at: usize| Member { client: ports[2 * at], peer: ports[2 * at + 1], child: None };
        let members = (0..members).map(member).collect();
        let mut cluster = Cluster { scratch, members, more, scheme };
        for at in 0..cluster.members.len() {
            cluster.spawn(at);
        }
        for at in 0..cluster.members.len() {
            cluster.wait(at);
        }
        Some(cluster)
    }

    pub(crate) fn path(&self) -> &Path {
        self.scratch.path()
    }

    /// Kills a member as a crash would.
    pub(crate) fn kill(&mut self, at: usize) {
        if let Some(mut child) = self.members[at].child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts a member that was killed, on its data.
    pub(crate) fn restart(&mut self, at: usize) {
        self.spawn(at);
        self.wait(at);
    }

    fn spawn(&mut self, at: usize) {
        let url = |scheme: &str, port: u16| format!("{scheme}://127.0.0.1:{port}");
        let peers: Vec<String> = self
            .members
            .iter()
            .enumerate()
            .map(|(index, member)| format!("m{index}={}", url("http", member.peer)))
            .collect();
        let member = &self.members[at];
        let (client, peer) = (url(self.scheme, member.client), url("http", member.peer));
        let data = self.path().join(format!("m{at}")).display().to_string();
        let log = std::fs::File::create(self.path().join(format!("m{at}.log"))).unwrap();
        let child = Command::new(binary().unwrap())
            .args(["--name", &format!("m{at}"), "--data-dir", &data])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(","), "--logger", "zap"])
            .args(["--heartbeat-interval", "50", "--election-timeout", "500"])
            .args(&self.more)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.members[at].child = Some(child.unwrap());
    }

    fn wait(&self, at: usize) {
        let end = Instant::now() + START;
        while std::net::TcpStream::connect(("127.0.0.1", self.members[at].client)).is_err() {
            assert!(Instant::now() < end, "{}", self.log(at));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self, at: usize) -> String {
        std::fs::read_to_string(self.path().join(format!("m{at}.log"))).unwrap_or_default()
    }

    pub(crate) fn config(&self) -> StoreConfig {
        let url = |member: &Member| format!("{}://127.0.0.1:{}", self.scheme, member.client);
        let urls: Vec<String> = self.members.iter().map(url).collect();
        StoreConfig {
            kind: StoreKind::Etcd,
            etcd_endpoints: urls.join(","),
            ..StoreConfig::default()
        }
    }

    pub(crate) fn store(&self) -> Etcd {
        Etcd::new(&self.config()).unwrap()
    }

    pub(super) fn connection(&self) -> Connection {
        Connection::new(&self.config()).unwrap()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|at| self.kill(at));
    }
}
