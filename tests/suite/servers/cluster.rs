//! A Redis Cluster of real servers.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{RedisOptions, RedisServer, Reply, free_port, make_certificates};
use crate::stage::in_time;

const SLOTS: u16 = 16_384;
const PRIMARIES: u16 = 3;

/// What makes a cluster different from the plainest.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClusterOptions {
    /// Whether the first primary has a replica, which takes over soon after it is gone.
    pub(crate) replica: bool,
    /// Whether nodes and clients talk by TLS.
    pub(crate) tls: bool,
    /// Name and password of a second user that may do everything.
    pub(crate) user: Option<(&'static str, &'static str)>,
}

/// Three primaries, each with a third of the slots, that serve what they have also when another one
/// is down. They keep their records when they are started again.
#[derive(Debug)]
pub(crate) struct RedisCluster {
    nodes: Vec<RedisServer>,
    options: ClusterOptions,
    certificates: TempDir,
}

impl RedisCluster {
    pub(crate) fn start() -> Self {
        Self::start_with(ClusterOptions::default())
    }

    pub(crate) fn start_with(options: ClusterOptions) -> Self {
        let certificates = tempfile::tempdir().expect("a temporary directory");
        if options.tls {
            make_certificates(certificates.path());
        }
        let count = usize::from(PRIMARIES) + usize::from(options.replica);
        let start = |_| RedisServer::start_with(server_options(options, certificates.path()));
        let cluster = Self {
            nodes: (0..count).map(start).collect(),
            options,
            certificates,
        };
        cluster.join();
        cluster
    }

    /// The primaries, and after them the replica if there is one.
    pub(crate) fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// Ends one node at once, as a crash would.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].kill();
    }

    /// Starts it again, with the records that it had, and waits until it serves them.
    pub(crate) fn restart(&mut self, node: usize) {
        self.nodes[node].restart();
        self.wait_until_up(node);
    }

    /// Starts all again that were killed.
    pub(crate) fn restart_all(&mut self) {
        for node in &mut self.nodes {
            node.restart();
        }
        for node in 0..self.nodes.len() {
            self.wait_until_up(node);
        }
    }

    /// Waits until the first primary's replica has all that was written to it.
    pub(crate) fn wait_for_replica(&self) {
        let records = |node: usize| number(&self.nodes[node], &["DBSIZE"]);
        in_time("the replica has it all", || {
            (records(0) == records(PRIMARIES.into())).then_some(())
        });
    }

    /// Hosts and ports of the nodes, by which clients find the cluster.
    pub(crate) fn seeds(&self) -> Vec<(String, u16)> {
        let port = |node| client_port(self.options, node);
        let seed = |node| ("127.0.0.1".to_owned(), port(node));
        self.nodes.iter().map(seed).collect()
    }

    /// The URL in the configuration.
    pub(crate) fn url(&self) -> String {
        let seeds = self.seeds();
        let seeds: Vec<_> = seeds.iter().map(|(h, p)| format!("{h}:{p}")).collect();
        format!("redis-cluster://{}", seeds.join(","))
    }

    /// PEM of the authority that has signed the nodes' certificate.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.certificates.path().join("ca.pem")
    }

    /// The primary that has a key by the layout that the cluster was made with.
    pub(crate) fn owner(&self, key: &str) -> usize {
        let slot = self.slot(key);
        let owner = (0..PRIMARIES).position(|node| range(node).contains(&slot));
        owner.expect("each slot has a primary")
    }

    /// A key that this primary has.
    pub(crate) fn key_of(&self, node: usize, prefix: &str) -> String {
        let mut keys = (0..).map(|number| format!("{prefix}{number}"));
        let key = keys.find(|key| self.owner(key) == node);
        key.expect("there are as many keys as it takes")
    }

    /// How many records there are on all primaries.
    pub(crate) fn records(&self) -> i64 {
        let nodes = self.nodes.iter().take(PRIMARIES.into());
        nodes.map(|node| number(node, &["DBSIZE"])).sum()
    }

    /// Begins to move a key's slot to another primary: new keys of it are made there from now on,
    /// and the old ones stay until they are [moved](Self::move_key).
    pub(crate) fn begin_move(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot(key).to_string();
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        ok(
            target,
            &["CLUSTER", "SETSLOT", &slot, "IMPORTING", &id(source)],
        );
        ok(
            source,
            &["CLUSTER", "SETSLOT", &slot, "MIGRATING", &id(target)],
        );
    }

    pub(crate) fn move_key(&self, key: &str, from: usize, to: usize) {
        let port = self.nodes[to].port().to_string();
        let command = ["MIGRATE", "127.0.0.1", &port, key, "0", "10000"];
        ok(&self.nodes[from], &command);
    }

    /// Ends what was begun: the slot is where its keys are.
    pub(crate) fn end_move(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot(key).to_string();
        let new = id(&self.nodes[to]);
        for node in [to, from] {
            ok(
                &self.nodes[node],
                &["CLUSTER", "SETSLOT", &slot, "NODE", &new],
            );
        }
    }

    fn slot(&self, key: &str) -> u16 {
        let up = self.nodes.iter().find(|node| node.is_running());
        let up = up.expect("a node runs");
        let slot = number(up, &["CLUSTER", "KEYSLOT", key]);
        u16::try_from(slot).expect("a slot")
    }

    fn join(&self) {
        for (node, number) in self.nodes.iter().zip(0..PRIMARIES) {
            let range = range(number);
            let (first, last) = (range.start.to_string(), (range.end - 1).to_string());
            ok(node, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]);
            // Two of one epoch would have to settle it between them first.
            let epoch = (number + 1).to_string();
            ok(node, &["CLUSTER", "SET-CONFIG-EPOCH", &epoch]);
        }
        for node in &self.nodes {
            for other in &self.nodes {
                let port = client_port(self.options, other).to_string();
                let bus = other.cluster_port().to_string();
                ok(node, &["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        for node in 0..self.nodes.len() {
            self.wait_until_up(node);
        }
        if self.options.replica {
            self.replicate();
        }
    }

    /// Makes the last node the first one's replica, and waits until it has all that it has.
    fn replicate(&self) {
        let (primary, replica) = (&self.nodes[0], &self.nodes[usize::from(PRIMARIES)]);
        ok(replica, &["CLUSTER", "REPLICATE", &id(primary)]);
        in_time("the replica is in step", || {
            let link = text(replica, &["INFO", "replication"]);
            let known = text(&self.nodes[1], &["CLUSTER", "NODES"]);
            (link.contains("master_link_status:up") && known.contains(" slave ")).then_some(())
        });
    }

    /// Waits until a node knows all others and all slots.
    fn wait_until_up(&self, node: usize) {
        let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
        let assigned = format!("cluster_slots_assigned:{SLOTS}\r");
        in_time("the cluster is whole", || {
            let info = text(&self.nodes[node], &["CLUSTER", "INFO"]);
            let said = |line: &str| info.contains(line);
            (said("cluster_state:ok") && said(&known) && said(&assigned)).then_some(())
        });
    }
}

fn server_options(options: ClusterOptions, certificates: &Path) -> RedisOptions {
    let mut arguments = Vec::new();
    let mut set = |name: &str, value: &str| {
        arguments.push(format!("--{name}"));
        arguments.push(value.to_owned());
    };
    set("cluster-enabled", "yes");
    set("cluster-port", &free_port().to_string());
    set("cluster-node-timeout", "1000");
    set("cluster-require-full-coverage", "no");
    set("appendonly", "yes");
    set("appendfsync", "always");
    set("repl-diskless-sync-delay", "0");
    if options.tls {
        let file = |name: &str| certificates.join(name).display().to_string();
        set("tls-port", &free_port().to_string());
        set("tls-auth-clients", "no");
        set("tls-cluster", "yes");
        set("tls-replication", "yes");
        set("tls-cert-file", &file("server.pem"));
        set("tls-key-file", &file("server.key"));
        set("tls-ca-cert-file", &file("ca.pem"));
    }
    let user = |(name, password): (&str, &str)| (name.to_owned(), password.to_owned());
    RedisOptions {
        user: options.user.map(user),
        arguments,
        ..RedisOptions::default()
    }
}

fn client_port(options: ClusterOptions, node: &RedisServer) -> u16 {
    if options.tls {
        node.argument("--tls-port")
    } else {
        node.port()
    }
}

/// The slots that a primary begins with.
fn range(node: u16) -> std::ops::Range<u16> {
    let part = SLOTS / PRIMARIES;
    let end = if node + 1 == PRIMARIES {
        SLOTS
    } else {
        part * (node + 1)
    };
    part * node..end
}

fn id(node: &RedisServer) -> String {
    text(node, &["CLUSTER", "MYID"])
}

fn ok(node: &RedisServer, command: &[&str]) {
    let answer = node.command(command);
    assert_eq!(answer, Reply::Text(b"OK".to_vec()), "{command:?}");
}

fn text(node: &RedisServer, command: &[&str]) -> String {
    let Reply::Text(text) = node.command(command) else {
        panic!("{command:?} is answered with text");
    };
    String::from_utf8(text).expect("it is text")
}

fn number(node: &RedisServer, command: &[&str]) -> i64 {
    let Reply::Number(number) = node.command(command) else {
        panic!("{command:?} is answered with a number");
    };
    number
}
