//! Every way an exchange can fail, and what the client is told.
//!
//! The client learns a status, a fixed sentence and the request's id. Causes go to the log, whole:
//! they name hosts, settings and rules, which are no business of strangers.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::config::LogLevel;
use crate::proxy::Body;
use crate::proxy::forward::{RequestError, ResponseError};
use crate::proxy::intake::BodyFault;
use crate::proxy::route::RouteError;
use crate::proxy::upstream::UpstreamError;
use crate::store::{BoxError, StoreError};
use crate::telemetry::RequestId;

/// Why an exchange failed, by culprit.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The client sent what no gateway serves.
    #[error("the request was refused")]
    Downstream(#[source] RequestError),
    /// Which route the request takes depends on who reads its path.
    #[error("the request was refused")]
    Route(#[source] RouteError),
    /// The client sent a body that is too large, or too slow.
    #[error("the request's body was refused")]
    Body(#[source] BodyFault),
    /// The application could not be asked, or did not answer.
    #[error("the request got no response")]
    Upstream(#[source] UpstreamError),
    /// The application answered in a way that can't be passed on.
    #[error("the response can't be passed on")]
    Response(#[source] ResponseError),
    /// The application's signals are malformed or over a limit; none was applied.
    #[error("the signals were refused")]
    Signals(#[source] BoxError),
    /// The store failed, and the route does not go on without it.
    #[error("the session store failed")]
    Store(#[source] StoreError),
    /// Our own fault.
    #[error("the proxy made a mistake")]
    Internal(#[source] BoxError),
}

/// What becomes of the client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// It can be used again.
    Keep,
    /// It is closed: what the client sent next can't be told apart with certainty, or is not worth
    /// waiting for.
    Close,
}

/// How a failure looks from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescue {
    /// The status that is sent.
    pub status: StatusCode,
    /// The sentence that is sent.
    pub phrase: &'static str,
    /// Whether the connection is closed.
    pub after: After,
    /// How important the log line about it is.
    pub level: LogLevel,
}

/// The seconds after which a client may try again.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("5");

impl ProxyError {
    /// How this failure looks from outside.
    pub fn rescue(&self) -> Rescue {
        use After::{Close, Keep};
        use LogLevel::{Debug, Error, Info, Warn};

        let (status, phrase, after, level) = match self {
            Self::Downstream(error) => {
                let (status, phrase) = refusal(*error);
                // How such a request is framed, and where the next one begins, is in doubt.
                (status, phrase, Close, Info)
            }
            Self::Route(_) => (400, "The path is ambiguous.", Keep, Info),
            Self::Body(BodyFault::TooLarge) => (413, "The request is too large.", Close, Info),
            Self::Body(BodyFault::Stalled | BodyFault::TooSlow) => {
                (408, "The request did not arrive in time.", Close, Info)
            }
            Self::Upstream(error) => match error {
                UpstreamError::Connect(_) | UpstreamError::Tls(_) | UpstreamError::NoWebSocket => {
                    (502, "The application can't be reached.", Keep, Error)
                }
                UpstreamError::ConnectTimeout => {
                    (504, "The application can't be reached.", Keep, Error)
                }
                UpstreamError::Busy => (503, "The application is busy.", Keep, Warn),
                UpstreamError::Unavailable => {
                    (503, "The application is not available.", Keep, Error)
                }
                UpstreamError::ResponseTimeout => {
                    (504, "The application did not answer in time.", Keep, Error)
                }
                UpstreamError::RequestStalled => {
                    (408, "The request did not arrive in time.", Close, Info)
                }
                UpstreamError::RequestBroken(_) => {
                    (400, "The request did not arrive as a whole.", Close, Debug)
                }
                UpstreamError::Broken(_) => {
                    (502, "The application did not answer properly.", Keep, Error)
                }
            },
            Self::Response(_) | Self::Signals(_) => {
                (502, "The application did not answer properly.", Keep, Error)
            }
            Self::Store(_) => (
                503,
                "Sessions are not available at the moment.",
                Keep,
                Error,
            ),
            Self::Internal(_) => (500, "Something went wrong.", Close, Error),
        };
        Rescue {
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            phrase,
            after,
            level,
        }
    }

    /// The failure as a word of the access log.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Downstream(_) | Self::Route(_) => "bad_request",
            Self::Body(BodyFault::TooLarge) => "request_too_large",
            Self::Body(BodyFault::Stalled | BodyFault::TooSlow) => "request_timeout",
            Self::Upstream(error) => match error {
                UpstreamError::Connect(_) => "upstream_unreachable",
                UpstreamError::ConnectTimeout => "upstream_connect_timeout",
                UpstreamError::Tls(_) => "upstream_tls",
                UpstreamError::NoWebSocket => "upstream_no_websocket",
                UpstreamError::Busy => "upstream_busy",
                UpstreamError::Unavailable => "upstream_unavailable",
                UpstreamError::ResponseTimeout => "upstream_timeout",
                UpstreamError::RequestStalled => "request_timeout",
                UpstreamError::RequestBroken(_) => "request_broken",
                UpstreamError::Broken(_) => "upstream_broken",
            },
            Self::Response(_) => "bad_response",
            Self::Signals(_) => "bad_signals",
            Self::Store(_) => "store_failed",
            Self::Internal(_) => "internal",
        }
    }

    /// The answer to the client: status, phrase and request id as plain text.
    pub fn respond(&self, id: &RequestId) -> Response<Body> {
        let rescue = self.rescue();
        let text = format!(
            "{}\n{}\nRequest id: {}\n",
            rescue.status,
            rescue.phrase,
            id.as_str()
        );
        let mut response = Response::new(Body::Full(Bytes::from(text)));
        *response.status_mut() = rescue.status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(CONTENT_TYPE, plain);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if rescue.after == After::Close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if rescue.status == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        if rescue.status == StatusCode::METHOD_NOT_ALLOWED {
            // RFC 9110 section 15.5.6: empty, since the target of a CONNECT allows nothing here.
            headers.insert(ALLOW, HeaderValue::from_static(""));
        }
        response
    }
}

fn refusal(error: RequestError) -> (u16, &'static str) {
    match error {
        RequestError::Connect => (405, "This method is not offered."),
        RequestError::Target => (400, "The request target is not valid."),
        RequestError::HostCount | RequestError::HostInvalid | RequestError::HostConflict => {
            (400, "The Host is not valid.")
        }
        RequestError::TwoLengths | RequestError::TransferEncoding => {
            (400, "The length of the request is ambiguous.")
        }
        RequestError::TransferCoding => (501, "This transfer coding is not known."),
        RequestError::Expectation => (417, "This expectation can't be met."),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use insta::assert_snapshot;

    use super::*;

    async fn text(error: &ProxyError) -> String {
        let response = error.respond(&RequestId::from_static("id-1"));
        let (head, body) = response.into_parts();
        let mut lines: Vec<String> = vec![head.status.as_str().to_owned()];
        for (name, value) in &head.headers {
            lines.push(format!("{name}: {}", value.to_str().unwrap()));
        }
        let body = body.collect().await.unwrap().to_bytes();
        format!("{}\n\n{}", lines.join("\n"), String::from_utf8_lossy(&body))
    }

    #[tokio::test]
    async fn a_refused_request_closes_the_connection() {
        let error = ProxyError::Downstream(RequestError::TwoLengths);
        assert_snapshot!(text(&error).await, @r"
        400
        content-type: text/plain; charset=utf-8
        cache-control: no-store
        connection: close

        400 Bad Request
        The length of the request is ambiguous.
        Request id: id-1
        ");
    }

    #[tokio::test]
    async fn a_failed_store_says_when_to_try_again_and_not_why() {
        let cause = StoreError::Unavailable("10.1.2.3:6379 refused".into());
        assert_snapshot!(text(&ProxyError::Store(cause)).await, @r"
        503
        content-type: text/plain; charset=utf-8
        cache-control: no-store
        retry-after: 5

        503 Service Unavailable
        Sessions are not available at the moment.
        Request id: id-1
        ");
    }

    #[test]
    fn each_refusal_has_its_status() {
        use RequestError::*;
        let statuses = [
            (Connect, 405),
            (Target, 400),
            (HostCount, 400),
            (HostInvalid, 400),
            (HostConflict, 400),
            (TwoLengths, 400),
            (TransferEncoding, 400),
            (TransferCoding, 501),
            (Expectation, 417),
        ];
        for (error, status) in statuses {
            let rescue = ProxyError::Downstream(error).rescue();
            assert_eq!(rescue.status.as_u16(), status, "{error}");
            assert_eq!(rescue.after, After::Close, "{error}");
        }
    }

    #[test]
    fn the_upstreams_failures_keep_the_clients_connection() {
        for (error, status) in [
            (UpstreamError::ConnectTimeout, 504),
            (UpstreamError::Busy, 503),
            (UpstreamError::Unavailable, 503),
            (UpstreamError::ResponseTimeout, 504),
        ] {
            let rescue = ProxyError::Upstream(error).rescue();
            assert_eq!(
                (rescue.status.as_u16(), rescue.after),
                (status, After::Keep)
            );
        }
        let stalled = ProxyError::Upstream(UpstreamError::RequestStalled).rescue();
        assert_eq!(
            (stalled.status.as_u16(), stalled.after),
            (408, After::Close)
        );
    }
}
