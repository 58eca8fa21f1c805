//! What a node of a Redis Cluster is asked beside records: who has which slots, and whether all is
//! well.

use fred::error::Error;
use fred::interfaces::{ClientLike, LuaInterface};
use fred::types::{ClusterHash, CustomCommand, Value};

use super::super::StoreError;
use super::super::breaker::Access;
use super::{COMPARE_AND_WRITE, Redis};

/// Slots in a row that one node has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Range {
    pub(in super::super) first: u16,
    /// The last one, included.
    pub(in super::super) last: u16,
    /// `None` is the host of the node that has answered.
    pub(in super::super) host: Option<String>,
    pub(in super::super) port: u16,
}

impl Redis {
    /// `CLUSTER SLOTS`: which primary has which slots, as this node sees it.
    pub(in super::super) async fn slots(&self) -> Result<Vec<Range>, StoreError> {
        let answer = self.about_cluster("SLOTS").await?;
        ranges(answer)
            .ok_or_else(|| StoreError::corrupt("the answer to CLUSTER SLOTS is no list of slots"))
    }

    /// `CLUSTER INFO`: whether this node serves its slots. One that has lost the others answers
    /// PING, too.
    pub(in super::super) async fn ping_cluster(&self) -> Result<(), StoreError> {
        let answer = self.about_cluster("INFO").await?;
        let text = answer.into_string().unwrap_or_default();
        if text.lines().any(|line| line.trim() == "cluster_state:ok") {
            Ok(())
        } else {
            Err(StoreError::unavailable(
                "the node says that the cluster is down",
            ))
        }
    }

    /// `CLUSTER NODES`: whether this node is giving slots away, or getting some, just now.
    pub(in super::super) async fn moves_slots(&self) -> Result<bool, StoreError> {
        let answer = self.about_cluster("NODES").await?;
        let text = answer.into_string().unwrap_or_default();
        let is_moving = |line: &str| line.contains("myself") && line.contains(" [");
        Ok(text.lines().any(is_moving))
    }

    /// `ASKING`: the node takes the next command on this connection also when it is about a slot
    /// that it is only about to get. The caller sees to it that this is the right one.
    pub(in super::super) async fn ask(&self) -> Result<(), StoreError> {
        // A script that the node does not know would have to be sent as a second command.
        let client = self.client()?;
        let loaded: Result<Value, Error> = client.script_load(COMPARE_AND_WRITE).await;
        loaded.map_err(|error| self.failure(&error, Access::Read))?;
        self.custom("ASKING", Vec::new()).await.map(drop)
    }

    async fn about_cluster(&self, what: &'static str) -> Result<Value, StoreError> {
        self.custom("CLUSTER", vec![what.into()]).await
    }

    async fn custom(&self, name: &'static str, args: Vec<Value>) -> Result<Value, StoreError> {
        // The hash is for the driver's own routing, which is not used.
        let command = CustomCommand::new_static(name, ClusterHash::Random, false);
        let answer: Result<Value, Error> = self.client()?.custom(command, args).await;
        answer.map_err(|error| self.failure(&error, Access::Read))
    }
}

/// Each range is its first and its last slot, its primary, and then replicas. A node is host,
/// port, and things that need not be known.
fn ranges(answer: Value) -> Option<Vec<Range>> {
    let mut ranges = Vec::new();
    for range in answer.into_array() {
        let mut parts = range.into_array().into_iter();
        let (first, last) = (number(&parts.next()?)?, number(&parts.next()?)?);
        let mut primary = parts.next()?.into_array().into_iter();
        let host = primary.next()?;
        let port = number(&primary.next()?)?;
        // "?" is one whose name the asked node does not know.
        let host = host.into_string().filter(|host| !host.is_empty());
        if host.as_deref() == Some("?") {
            continue;
        }
        ranges.push(Range {
            first,
            last,
            host,
            port,
        });
    }
    Some(ranges)
}

fn number(value: &Value) -> Option<u16> {
    value.as_i64()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(host: Value, port: i64) -> Value {
        let id = "09dbe9720cda62f7865eabc5fd8857c5d2678366";
        Value::Array(vec![host, port.into(), id.into(), Value::Array(vec![])])
    }

    fn range(first: i64, last: i64, nodes: Vec<Value>) -> Value {
        let slots = [first.into(), last.into()];
        Value::Array(slots.into_iter().chain(nodes).collect())
    }

    #[test]
    fn slots_belong_to_the_first_node_of_their_range() {
        let answer = Value::Array(vec![
            range(0, 99, vec![node("a".into(), 1), node("b".into(), 2)]),
            range(100, 100, vec![node(Value::Null, 3)]),
            range(101, 102, vec![node("".into(), 3)]),
            range(103, 200, vec![node("?".into(), 4)]),
        ]);
        let expected = [
            (0, 99, Some("a"), 1),
            (100, 100, None, 3),
            (101, 102, None, 3),
        ]
        .map(|(first, last, host, port)| Range {
            first,
            last,
            host: host.map(str::to_owned),
            port,
        });
        assert_eq!(ranges(answer), Some(expected.to_vec()));
    }

    #[test]
    fn what_is_no_list_of_slots_is_told() {
        for answer in [
            Value::from("OK"),
            Value::Array(vec![range(0, 70_000, vec![node("a".into(), 1)])]),
            Value::Array(vec![range(0, 1, vec![])]),
        ] {
            assert_eq!(ranges(answer.clone()), None, "{answer:?}");
        }
        assert_eq!(ranges(Value::Array(Vec::new())), Some(Vec::new()));
    }
}
