//! `[cache]`: records of Redis in the proxy's memory.

use std::time::Duration;

use super::parse;
use super::section::Section;
use super::storage::{EngineName, refuse_engine};
use super::{Engine, NearCache, Storage};

const KEYS: [&str; 3] = ["enabled", "max_memory", "max_staleness"];

/// Reads `[cache]` into the settings of the store whose sessions it keeps.
pub(super) fn read(mut section: Section<'_, '_>, name: Option<EngineName>, storage: &mut Storage) {
    match (name, &mut storage.engine) {
        (Some(EngineName::Redis), Engine::Redis(redis)) => redis.near_cache = near(&mut section),
        (Some(name), _) => {
            for key in KEYS {
                refuse_engine(&mut section, key, name, &[EngineName::Redis]);
            }
        }
        (None, _) => {
            for key in KEYS {
                drop(section.take(key));
            }
        }
    }
    section.finish();
}

fn near(section: &mut Section<'_, '_>) -> Option<NearCache> {
    let is_on = section.read("enabled", parse::boolean).unwrap_or(false);
    let max_bytes = section.read("max_memory", parse::size(1 << 20, 1 << 40));
    let milliseconds = |millis| Duration::from_millis(millis);
    let staleness = parse::duration(milliseconds(100), Duration::from_hours(1));
    let max_staleness = section.read("max_staleness", staleness);
    is_on.then(|| NearCache {
        max_bytes: max_bytes.unwrap_or(64 << 20),
        max_staleness: max_staleness.unwrap_or(Duration::from_secs(10)),
    })
}
