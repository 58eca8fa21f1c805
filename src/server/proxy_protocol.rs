//! The header of the PROXY protocol, versions 1 and 2, from bytes to who the client is.
//!
//! The specification is `doc/proxy-protocol.txt` of `HAProxy`; sections are its. Only a header that is
//! right in each byte is one: whoever sends it was configured to, and anything else is a mistake or
//! an attack.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header of version 1 begins with.
const V1: &[u8] = b"PROXY ";
/// The longest header of version 1, end of line included (section 2.1).
const V1_MAX: usize = 107;
/// What a header of version 2 begins with (section 2.2).
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The fixed part of version 2: signature, version and command, family, length.
const V2_FIXED: usize = 16;
/// The longest rest of version 2 that is taken; addresses and what usually follows need a tenth.
const V2_MAX: usize = 4096;
/// The type of a TLV with a checksum (section 2.2.3).
const CRC32C: u8 = 0x03;

/// What the bytes at the beginning of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header might be beginning.
    Incomplete,
    /// A whole header.
    Header {
        /// Its bytes; what follows is the client's.
        length: usize,
        /// Who the client is.
        source: Source,
    },
}

/// Who the client is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Somebody at this address.
    Address(SocketAddr),
    /// The sender itself, such as by its health checks (`LOCAL`).
    Sender,
    /// Somebody without an address of the internet.
    Unknown,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// They are something else.
    #[error("it does not begin with a header of the PROXY protocol")]
    Missing,
    /// It goes on for longer than a header may.
    #[error("the header of the PROXY protocol is too long")]
    TooLong,
    /// It breaks the rules of its version.
    #[error("the header of the PROXY protocol is malformed")]
    Malformed,
    /// It was changed on the way, or made badly.
    #[error("the checksum of the PROXY protocol's header is wrong")]
    Checksum,
}

/// Reads the header at the beginning of a connection, of which `bytes` are all that has come.
///
/// What it answers other than [`Parsed::Incomplete`] stays the same whatever comes after.
///
/// # Errors
///
/// [`Invalid`] says what is wrong. The connection must be closed: nothing says who the client is.
pub fn parse(bytes: &[u8]) -> Result<Parsed, Invalid> {
    if bytes.starts_with(V1) {
        version_1(bytes)
    } else if bytes.starts_with(V2) {
        version_2(bytes)
    } else if V1.starts_with(bytes) || V2.starts_with(bytes) {
        Ok(Parsed::Incomplete)
    } else {
        Err(Invalid::Missing)
    }
}

/// `PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n` (section 2.1).
fn version_1(bytes: &[u8]) -> Result<Parsed, Invalid> {
    let head = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = memchr::memchr(b'\n', head) else {
        return if head.len() < V1_MAX {
            Ok(Parsed::Incomplete)
        } else {
            Err(Invalid::TooLong)
        };
    };
    let line = head
        .get(V1.len()..end)
        .and_then(|line| line.strip_suffix(b"\r"));
    let line = line.ok_or(Invalid::Malformed)?;
    let line = std::str::from_utf8(line).map_err(|_error| Invalid::Malformed)?;
    let header = |source| Parsed::Header {
        length: end.saturating_add(1),
        source,
    };
    let mut words = line.split(' ');
    let family = words.next();
    if family == Some("UNKNOWN") {
        // Whatever follows has no meaning.
        return Ok(header(Source::Unknown));
    }
    let parts = (
        words.next(),
        words.next(),
        words.next(),
        words.next(),
        words.next(),
    );
    let (Some(source), Some(destination), Some(port), Some(to_port), None) = parts else {
        return Err(Invalid::Malformed);
    };
    let address = |text: &str| -> Result<IpAddr, Invalid> {
        let parsed = match family {
            Some("TCP4") => text.parse::<Ipv4Addr>().map(IpAddr::V4),
            Some("TCP6") => text.parse::<Ipv6Addr>().map(IpAddr::V6),
            _ => return Err(Invalid::Malformed),
        };
        parsed.map_err(|_error| Invalid::Malformed)
    };
    let (ip, _destination) = (address(source)?, address(destination)?);
    let (port, _to_port) = (decimal(port)?, decimal(to_port)?);
    Ok(header(Source::Address(SocketAddr::new(ip, port))))
}

/// A port as it is written once only: without sign and leading zeros.
fn decimal(text: &str) -> Result<u16, Invalid> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = is_plain && (text == "0" || !text.starts_with('0'));
    let number = text.parse().ok().filter(|_| is_plain);
    number.ok_or(Invalid::Malformed)
}

/// Section 2.2.
fn version_2(bytes: &[u8]) -> Result<Parsed, Invalid> {
    let fixed: Option<&[u8; V2_FIXED]> = bytes.first_chunk();
    let Some([.., command, family, high, low]) = fixed else {
        return Ok(Parsed::Incomplete);
    };
    if !matches!(command, 0x20 | 0x21) {
        return Err(Invalid::Malformed);
    }
    let rest = usize::from(u16::from_be_bytes([*high, *low]));
    if rest > V2_MAX {
        return Err(Invalid::TooLong);
    }
    let length = V2_FIXED.saturating_add(rest);
    let Some(header) = bytes.get(..length) else {
        return Ok(Parsed::Incomplete);
    };
    let rest = header.get(V2_FIXED..).unwrap_or_default();
    let (source, tlvs) = addresses(*command == 0x20, *family, rest).ok_or(Invalid::Malformed)?;
    check_tlvs(header, tlvs)?;
    Ok(Parsed::Header { length, source })
}

/// Takes the addresses from what follows the fixed part; says what follows them.
fn addresses(is_local: bool, family: u8, rest: &[u8]) -> Option<(Source, &[u8])> {
    if is_local {
        // It has to be skipped, whatever it is.
        return Some((Source::Sender, &[]));
    }
    match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let ([a, b, c, d, _, _, _, _, high, low, _, _], tlvs) = rest.split_first_chunk()?;
            let ip = Ipv4Addr::new(*a, *b, *c, *d);
            let port = u16::from_be_bytes([*high, *low]);
            Some((Source::Address(SocketAddr::from((ip, port))), tlvs))
        }
        // TCP over IPv6.
        0x21 => {
            let (ip, after): (&[u8; 16], _) = rest.split_first_chunk()?;
            let (_destination, after): (&[u8; 16], _) = after.split_first_chunk()?;
            let ([high, low, _, _], tlvs) = after.split_first_chunk()?;
            let port = u16::from_be_bytes([*high, *low]);
            let address = SocketAddr::from((Ipv6Addr::from(*ip), port));
            Some((Source::Address(address), tlvs))
        }
        // Datagrams, unix sockets and what is not specified carry no connection from the internet.
        0x12 => Some((Source::Unknown, rest.get(12..)?)),
        0x22 => Some((Source::Unknown, rest.get(36..)?)),
        0x31 | 0x32 => Some((Source::Unknown, rest.get(216..)?)),
        0x00 => Some((Source::Unknown, &[])),
        _ => None,
    }
}

/// Passes over what follows the addresses: a type, a length, a value each. A checksum has to be
/// right if there is one.
fn check_tlvs(header: &[u8], tlvs: &[u8]) -> Result<(), Invalid> {
    let mut rest = tlvs;
    while let [kind, high, low, after @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let (value, next) = after.split_at_checked(length).ok_or(Invalid::Malformed)?;
        if *kind == CRC32C {
            let value: [u8; 4] = value.try_into().map_err(|_error| Invalid::Malformed)?;
            let at = header.len().saturating_sub(after.len());
            if crc32c(header, at..at.saturating_add(4)) != u32::from_be_bytes(value) {
                return Err(Invalid::Checksum);
            }
        }
        rest = next;
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(Invalid::Malformed)
    }
}

/// CRC-32C (RFC 3720 appendix B.4) of `bytes`, those in `zeroed` counting as 0. Bit by bit: it is
/// rare, and short.
fn crc32c(bytes: &[u8], zeroed: std::ops::Range<usize>) -> u32 {
    const REVERSED_POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for (position, byte) in bytes.iter().enumerate() {
        let byte = if zeroed.contains(&position) { 0 } else { *byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            let carry = crc & 1;
            crc >>= 1;
            if carry == 1 {
                crc ^= REVERSED_POLYNOMIAL;
            }
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[expect(clippy::unnecessary_wraps, reason = "it is what parsing answers")]
    fn header(length: usize, source: Source) -> Result<Parsed, Invalid> {
        Ok(Parsed::Header { length, source })
    }

    fn address(text: &str) -> Source {
        Source::Address(text.parse().unwrap())
    }

    /// A header of version 2.
    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2, &[command, family], &length, rest].concat()
    }

    const IPV4: [u8; 12] = [192, 0, 2, 1, 192, 0, 2, 2, 0x12, 0x34, 1, 187];

    #[test]
    fn version_1_names_the_client() {
        let parse = |text: &str| parse(text.as_bytes());
        let line = "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n";
        assert_eq!(parse(line), header(line.len(), address("192.0.2.1:56324")));
        let more = format!("{line}GET / HTTP/1.1\r\n");
        assert_eq!(parse(&more), header(line.len(), address("192.0.2.1:56324")));
        let line = "PROXY TCP6 2001:db8::1 ::1 1 0\r\n";
        assert_eq!(parse(line), header(line.len(), address("[2001:db8::1]:1")));
        assert_eq!(parse("PROXY UNKNOWN\r\n"), header(15, Source::Unknown));
        let line = "PROXY UNKNOWN ffff::1 whatever it is\r\n";
        assert_eq!(parse(line), header(line.len(), Source::Unknown));
    }

    #[test]
    fn version_1_is_taken_as_it_is_written_once_only() {
        for text in [
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443 1\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2  56324 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\n",
            "PROXY TCP4 192.0.2.01 192.0.2.2 56324 443\r\n",
            "PROXY TCP4 192.0.2 192.0.2.2 56324 443\r\n",
            "PROXY TCP4 ::1 ::1 56324 443\r\n",
            "PROXY TCP6 192.0.2.1 192.0.2.2 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 01 443\r\n",
            "PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n",
            "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY \r\n",
            "PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            "PROXY TCP4 192.0.2.1\r 192.0.2.2 1 2\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Invalid::Malformed), "{text:?}");
        }
        for text in [
            "GET / HTTP/1.1\r\n",
            "proxy TCP4",
            "PROXYTCP4",
            "\x16\x03\x01",
            "\r\n\r\nGET",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Invalid::Missing), "{text:?}");
        }
        let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
        assert_eq!(parse(endless.as_bytes()), Err(Invalid::TooLong));
    }

    #[test]
    fn version_2_names_the_client() {
        let bytes = v2(0x21, 0x11, &IPV4);
        assert_eq!(parse(&bytes), header(28, address("192.0.2.1:4660")));
        let ipv6 = [
            &[0x20, 1, 0xd, 0xb8][..],
            &[0; 11],
            &[1],
            &[0; 16],
            &[0, 80, 1, 187],
        ]
        .concat();
        assert_eq!(
            parse(&v2(0x21, 0x21, &ipv6)),
            header(52, address("[2001:db8::1]:80"))
        );
        assert_eq!(
            parse(&v2(0x21, 0x31, &[b'/'; 216])),
            header(232, Source::Unknown)
        );
        assert_eq!(parse(&v2(0x21, 0x00, &[])), header(16, Source::Unknown));
        assert_eq!(
            parse(&v2(0x20, 0x11, &[1, 2, 3])),
            header(19, Source::Sender)
        );
    }

    #[test]
    fn version_2_is_taken_when_its_parts_fit() {
        for bytes in [
            v2(0x11, 0x11, &IPV4),
            v2(0x22, 0x11, &IPV4),
            v2(0x21, 0x41, &IPV4),
            v2(0x21, 0x11, &IPV4[..11]),
            v2(0x21, 0x21, &IPV4),
            v2(0x21, 0x31, &IPV4),
            v2(0x21, 0x11, &[&IPV4[..], &[4, 0]].concat()),
            v2(0x21, 0x11, &[&IPV4[..], &[4, 0, 5, 1]].concat()),
        ] {
            assert_eq!(parse(&bytes), Err(Invalid::Malformed), "{bytes:x?}");
        }
        assert_eq!(parse(&v2(0x21, 0x11, &[0; 5000])), Err(Invalid::TooLong));
    }

    #[test]
    fn a_checksum_must_be_right_where_there_is_one() {
        // RFC 3720 appendix B.4: 32 bytes of zeros.
        assert_eq!(crc32c(&[0; 32], 0..0), 0x8a91_36aa);
        let noop = [4, 0, 2, 0, 0];
        let mut bytes = v2(
            0x21,
            0x11,
            &[&IPV4[..], &noop, &[CRC32C, 0, 4, 0, 0, 0, 0]].concat(),
        );
        let at = bytes.len() - 4;
        let sum = crc32c(&bytes, at..at + 4).to_be_bytes();
        bytes[at..].copy_from_slice(&sum);
        assert_eq!(
            parse(&bytes),
            header(bytes.len(), address("192.0.2.1:4660"))
        );
        bytes[17] ^= 1;
        assert_eq!(parse(&bytes), Err(Invalid::Checksum));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, tail: Vec<u8>) {
            let _any = parse(&bytes);
            let _any = parse(&[V1, &bytes].concat());
            let _any = parse(&[V2, &bytes].concat());
            let rest = &tail[..tail.len().min(4000)];
            let _any = parse(&v2(0x21, 0x11, &[&IPV4[..], rest].concat()));
        }

        #[test]
        fn a_part_of_a_header_is_waited_for_and_what_follows_is_left(
            ip: [u8; 4], port: u16, cut: prop::sample::Index, after: Vec<u8>,
        ) {
            let from = SocketAddr::from((ip, port));
            let line = format!("PROXY TCP4 {} 127.0.0.1 {port} 80\r\n", from.ip());
            let rest = [&ip[..], &[127, 0, 0, 1], &port.to_be_bytes(), &[0, 80]].concat();
            for bytes in [line.into_bytes(), v2(0x21, 0x11, &rest)] {
                let part = &bytes[..cut.index(bytes.len())];
                prop_assert_eq!(parse(part), Ok(Parsed::Incomplete));
                let whole = header(bytes.len(), Source::Address(from));
                prop_assert_eq!(parse(&[&bytes[..], &after].concat()), whole);
            }
        }
    }
}
