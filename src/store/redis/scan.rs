//! All keys of a database, page by page.

use fred::error::Error;
use fred::interfaces::{ClientLike, KeysInterface};
use fred::types::{InfoKind, Value};

use std::time::Duration;

use super::super::breaker::Access;
use super::super::scan::Left;
use super::super::{Key, StoreError};
use super::{Redis, redis_key};

/// Keys, and where the rest of them begins.
type Keys = (Vec<Vec<u8>>, Option<String>);

impl Redis {
    /// `PTTL`, which says -2 for a key that is not there and -1 for one without an end.
    pub(in super::super) async fn left(&self, key: &Key) -> Result<Option<Left>, StoreError> {
        let answer: Result<Value, Error> = self.client()?.pttl(redis_key(key)).await;
        let answer = answer.map_err(|error| self.failure(&error, Access::Read))?;
        let Value::Integer(millis) = answer else {
            return Err(StoreError::corrupt("the answer to PTTL is no number"));
        };
        match (millis, u64::try_from(millis)) {
            (-2, _) => Ok(None),
            (-1, _) => Ok(Some(Left::Forever)),
            (_, Ok(millis)) => Ok(Some(Left::For(Duration::from_millis(millis)))),
            (_, Err(_negative)) => Err(StoreError::corrupt("the answer to PTTL is no lifetime")),
        }
    }

    /// One `SCAN`. A mark is a cursor and, after a space, which run of the server gave it: a server
    /// that was started anew has its keys in another order, and a cursor of before would leave some
    /// out.
    pub(in super::super) async fn scan(&self, mark: &str, count: u32) -> Result<Keys, StoreError> {
        let run = self.run_id().await?;
        let cursor = match mark.split_once(' ') {
            Some((cursor, of)) if of == run => cursor,
            Some(_) | None => "0",
        };
        let pages =
            self.client()?
                .scan_page::<Value, _, _>(cursor.to_owned(), "*", Some(count), None);
        let answer = pages
            .await
            .map_err(|error| self.failure(&error, Access::Read))?;
        let nonsense = || StoreError::corrupt("the answer to SCAN is no page of keys");
        let mut parts = answer.into_array().into_iter();
        let (Some(cursor), Some(keys), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(nonsense());
        };
        let cursor = cursor
            .into_string()
            .filter(|cursor| !cursor.is_empty() && cursor.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(nonsense)?;
        let keys = keys.into_array().into_iter().map(Value::into_owned_bytes);
        let keys = keys.collect::<Option<_>>().ok_or_else(nonsense)?;
        Ok((keys, (cursor != "0").then(|| format!("{cursor} {run}"))))
    }

    /// Tells one run of the server from another; empty where it is not told.
    async fn run_id(&self) -> Result<String, StoreError> {
        let answer: Result<Value, Error> = self.client()?.info(Some(InfoKind::Server)).await;
        let text = match answer.map_err(|error| self.failure(&error, Access::Read)) {
            Ok(answer) => answer.into_string().unwrap_or_default(),
            // Not every user may ask that.
            Err(StoreError::Refused(_)) => String::new(),
            Err(error) => return Err(error),
        };
        let id = text.lines().find_map(|line| line.strip_prefix("run_id:"));
        Ok(id.unwrap_or_default().trim().to_owned())
    }
}
