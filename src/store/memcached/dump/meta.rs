//! The lines of a metadump.

use percent_encoding::percent_decode;

/// One line of the answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// `key=KEY exp=SECONDS la=... cas=... fetch=... cls=... size=...`, of which only the key
    /// counts: its rest may be another by the time that it is looked at.
    Item(Vec<u8>),
    /// That was all.
    End,
    /// Another client, or the server itself, looks through the keys.
    Busy,
    /// The server does not know this way through its keys.
    NoSuchWay,
    /// The server has no such command, or has it switched off.
    Unable,
    /// None of these.
    Unknown,
}

impl Line {
    pub(super) fn read(line: &[u8]) -> Self {
        let line = line.trim_ascii_end();
        if let Some(rest) = line.strip_prefix(b"key=") {
            let key = rest.split(|&byte| byte == b' ').next().unwrap_or_default();
            return Self::Item(percent_decode(key).collect());
        }
        let word = line.split(|&byte| byte == b' ').next().unwrap_or_default();
        match word {
            // The latter where there is nothing at all.
            b"END" | b"NOTSTARTED" => Self::End,
            b"BADCLASS" => Self::NoSuchWay,
            b"BUSY" => Self::Busy,
            b"ERROR" | b"CLIENT_ERROR" => Self::Unable,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_real_servers() {
        let item =
            b"key=pycket%3A2c7a exp=1795000000 la=1794913600 cas=7 fetch=no cls=3 size=190\n";
        assert_eq!(Line::read(item), Line::Item(b"pycket:2c7a".to_vec()));
        assert_eq!(Line::read(b"END\r\n"), Line::End);
        let busy = b"BUSY currently processing crawler request\r\n";
        assert_eq!(Line::read(busy), Line::Busy);
        assert_eq!(Line::read(b"ERROR\r\n"), Line::Unable);
        let off = b"CLIENT_ERROR lru crawler disabled\r\n";
        assert_eq!(Line::read(off), Line::Unable);
        let old = b"BADCLASS invalid class id\r\n";
        assert_eq!(Line::read(old), Line::NoSuchWay);
        let empty = b"NOTSTARTED no items to crawl\r\n";
        assert_eq!(Line::read(empty), Line::End);
        assert_eq!(Line::read(b"VERSION 1.6\r\n"), Line::Unknown);
        assert_eq!(Line::read(b""), Line::Unknown);
    }
}
