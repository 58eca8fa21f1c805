//! Websockets that come by HTTP/2 and go on by HTTP/1.1.
//!
//! There, a client asks by an extended CONNECT (RFC 8441) and proves nothing; here, it is a GET with
//! a key whose answer proves that the other side knows the protocol (RFC 6455 section 1.3). So the
//! proxy makes a key and checks the answer by itself.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderValue, StatusCode, request, response};
use sha1::{Digest as _, Sha1};

use super::forward::ResponseError;

/// What is appended to a key (RFC 6455 section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const VERSION: HeaderValue = HeaderValue::from_static("13");

/// The question that was asked of the upstream.
#[derive(Clone, Debug)]
pub(super) struct Challenge {
    expected: HeaderValue,
}

impl Challenge {
    /// Puts a key into a request head that asks for a websocket.
    ///
    /// # Errors
    ///
    /// The operating system has no randomness.
    pub(super) fn put(head: &mut request::Parts) -> Result<Self, getrandom::Error> {
        let mut nonce = [0; 16];
        getrandom::fill(&mut nonce)?;
        Ok(Self::put_nonce(head, nonce))
    }

    fn put_nonce(head: &mut request::Parts, nonce: [u8; 16]) -> Self {
        let key = STANDARD.encode(nonce);
        let mut hash = Sha1::new();
        hash.update(key.as_bytes());
        hash.update(GUID);
        let answer = STANDARD.encode(hash.finalize());
        // Base64 is visible ASCII.
        let value = |text: String| HeaderValue::try_from(text).unwrap_or(VERSION);
        head.headers.insert(SEC_WEBSOCKET_KEY, value(key));
        head.headers.entry(SEC_WEBSOCKET_VERSION).or_insert(VERSION);
        Self {
            expected: value(answer),
        }
    }

    /// Makes of the upstream's answer the one to an extended CONNECT: success is 200, and whatever
    /// else the upstream says is no success.
    ///
    /// # Errors
    ///
    /// It answered with success, but not to this question: the client would take it for an open
    /// websocket.
    pub(super) fn check(&self, head: &mut response::Parts) -> Result<(), ResponseError> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let mut answers = head.headers.get_all(SEC_WEBSOCKET_ACCEPT).iter();
            if answers.next() != Some(&self.expected) || answers.next().is_some() {
                return Err(ResponseError::UnaskedUpgrade);
            }
            for name in [SEC_WEBSOCKET_ACCEPT, CONNECTION, UPGRADE] {
                head.headers.remove(name);
            }
            head.status = StatusCode::OK;
            return Ok(());
        }
        if head.status.is_success() {
            return Err(ResponseError::NoUpgrade);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    /// The example of RFC 6455 section 1.3.
    fn asked() -> (Challenge, HeaderValue) {
        let mut head = Request::new(()).into_parts().0;
        let challenge = Challenge::put_nonce(&mut head, *b"the sample nonce");
        assert_eq!(head.headers["sec-websocket-version"], "13");
        let key = head.headers.remove(SEC_WEBSOCKET_KEY).unwrap();
        (challenge, key)
    }

    fn answered(status: u16, accept: &str) -> response::Parts {
        let response = Response::builder().status(status);
        let response = response.header("Sec-WebSocket-Accept", accept);
        let response = response.header("Upgrade", "websocket").body(());
        response.unwrap().into_parts().0
    }

    #[test]
    fn an_answer_that_proves_it_is_success() {
        let (challenge, key) = asked();
        assert_eq!(key, "dGhlIHNhbXBsZSBub25jZQ==");
        let mut head = answered(101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        challenge.check(&mut head).unwrap();
        assert_eq!(head.status, 200);
        assert!(head.headers.is_empty(), "{:?}", head.headers);
    }

    #[test]
    fn nothing_else_is() {
        let (challenge, _) = asked();
        for accept in [
            "",
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo",
            "AAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        ] {
            let mut head = answered(101, accept);
            let error = challenge.check(&mut head).unwrap_err();
            assert_eq!(error, ResponseError::UnaskedUpgrade, "{accept}");
        }
        let error = challenge.check(&mut answered(200, "x")).unwrap_err();
        assert_eq!(error, ResponseError::NoUpgrade);
        for status in [301, 403, 426, 503] {
            let mut head = answered(status, "x");
            challenge.check(&mut head).unwrap();
            assert_eq!(head.status.as_u16(), status);
        }
    }
}
