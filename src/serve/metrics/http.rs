//! Answers `GET /metrics` over HTTP/1.1, on a TCP address or a socket of its own.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Notify, Semaphore};
use tracing::warn;

use crate::serve::config::MetricsAddress;
use crate::serve::socket;

/// Most bytes of the head of a request.
const MAX_HEAD: usize = 8 * 1024;
/// Longest time of a connection without a new request: the answer to the last one included.
const MAX_SILENCE: Duration = Duration::from_secs(10);
/// Connections that are served at the same time.
const MAX_CONNECTIONS: usize = 8;
/// What Prometheus and others know the text by.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where requests for metrics come in.
#[derive(Debug)]
pub(crate) enum MetricsListener {
    /// A TCP address.
    Tcp(TcpListener),
    /// A socket with the rules of [`socket`].
    Unix {
        /// Where connections are accepted.
        listener: UnixListener,
        /// Removes the socket in the end.
        _socket: socket::Listener,
    },
}

impl MetricsListener {
    /// Listens; `None` where the configuration names no address.
    ///
    /// # Errors
    /// When the address cannot be taken.
    pub(crate) async fn bind(address: &MetricsAddress) -> anyhow::Result<Option<Self>> {
        Ok(match address {
            MetricsAddress::None => None,
            MetricsAddress::Tcp(address) => {
                let listener = TcpListener::bind(address).await;
                let context = |e| anyhow::Error::new(e).context(format!("metrics on {address}"));
                Some(Self::Tcp(listener.map_err(context)?))
            }
            MetricsAddress::Unix(path) => {
                let socket = socket::bind(path)?;
                let listener = UnixListener::from_std(socket.listener.try_clone()?)?;
                Some(Self::Unix { listener, _socket: socket })
            }
        })
    }

    /// Answers requests, as long as it is polled, with what `text` gives.
    pub(crate) async fn serve<T, F>(self, text: T)
    where
        T: Fn() -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Option<String>> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let text = text.clone();
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _slot = slot;
                        serve_connection(stream, text, MAX_SILENCE).await;
                    });
                }),
                Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _slot = slot;
                        serve_connection(stream, text, MAX_SILENCE).await;
                    });
                }),
            };
            if let Err(error) = accepted {
                warn!(%error, "a request for metrics could not be accepted");
                // Out of descriptors, most likely: let others close some.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Answers the requests of one connection until it is closed, fails, or brings no request for `max_silence`.
async fn serve_connection<S, T, F>(stream: S, text: T, max_silence: Duration)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Fn() -> F + Clone,
    F: Future<Output = Option<String>>,
{
    let asked = Notify::new();
    let service = service_fn(|request| {
        asked.notify_one();
        let text = text.clone();
        async move { Ok::<_, Infallible>(answer(&request, text).await) }
    });
    let mut server = http1::Builder::new();
    // A client may say that it sends no more, and still wants its answer.
    server.max_buf_size(MAX_HEAD).half_close(true);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), service));
    loop {
        tokio::select! {
            // A client that breaks the protocol or goes away concerns no other.
            _ = &mut connection => return,
            () = asked.notified() => {}
            () = tokio::time::sleep(max_silence) => return,
        }
    }
}

async fn answer<B, T, F>(request: &Request<B>, text: T) -> Response<String>
where
    T: Fn() -> F,
    F: Future<Output = Option<String>>,
{
    let (status, body) = match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => match text().await {
            Some(text) => (StatusCode::OK, text),
            None => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        },
        (&Method::GET, _) => (StatusCode::NOT_FOUND, "see /metrics\n".to_owned()),
        _ => (StatusCode::METHOD_NOT_ALLOWED, String::new()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static(OPENMETRICS);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpStream, UnixStream};

    use super::*;

    /// What the server answers to a connection that sends `request` and no more.
    async fn reply_to(request: &[u8]) -> String {
        let (mut client, server) = UnixStream::pair().unwrap();
        let text = || async { Some("x 1\n".to_owned()) };
        let served = serve_connection(server, text, MAX_SILENCE);
        let talk = async {
            // A server that refuses a request need not read it to the end.
            let _ = client.write_all(request).await;
            let _ = client.shutdown().await;
            let mut reply = Vec::new();
            let _ = client.read_to_end(&mut reply).await;
            String::from_utf8(reply).unwrap()
        };
        tokio::join!(served, talk).1
    }

    #[tokio::test]
    async fn requests_are_told_apart() {
        for (request, status) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..], "HTTP/1.1 200 OK"),
            (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", "HTTP/1.0 200 OK"),
            (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found"),
            (b"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
            (b"HEAD /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 Method Not Allowed"),
            (b"GET /metrics HTTP/2\r\n\r\n", "HTTP/1.1 400 Bad Request"),
            (b"\0\0\r\n", "HTTP/1.1 400 Bad Request"),
            // Ends before it is complete.
            (b"GET /metrics", ""),
            (b"", ""),
        ] {
            let reply = reply_to(request).await;
            let first = reply.lines().next().unwrap_or_default();
            assert_eq!(first, status, "{:?}", String::from_utf8_lossy(request));
        }
    }

    #[tokio::test]
    async fn heads_without_end_are_refused() {
        for (length, status) in [(MAX_HEAD / 2, "200 OK"), (2 * MAX_HEAD, "431 Request Header")] {
            let filler = "x".repeat(length);
            let request = format!("GET /metrics HTTP/1.1\r\nX: {filler}\r\n\r\n");
            let reply = reply_to(request.as_bytes()).await;
            assert!(reply.starts_with(&format!("HTTP/1.1 {status}")), "{length}: {reply}");
        }
    }

    #[tokio::test]
    async fn silent_clients_and_slow_ones_are_left() {
        for request in ["", "GET /metrics HT", "GET /metrics HTTP/1.1\r\n\r\n"] {
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            // More than a socket holds: the client does not read it.
            let text = || async { Some("x".repeat(8 << 20)) };
            serve_connection(server, text, Duration::from_millis(50)).await;
        }
    }

    #[tokio::test]
    async fn one_connection_over_tcp_has_several_requests() {
        let address = "127.0.0.1:0".parse().map(MetricsAddress::Tcp).unwrap();
        let metrics = MetricsListener::bind(&address).await.unwrap().unwrap();
        let MetricsListener::Tcp(listener) = &metrics else { panic!("not TCP") };
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(metrics.serve(|| async { Some("x 1\n".to_owned()) }));
        let mut stream = TcpStream::connect(address).await.unwrap();
        for _ in 0..3 {
            stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
            let mut reply = Vec::new();
            while !reply.ends_with(b"\r\n\r\nx 1\n") {
                assert_ne!(stream.read_buf(&mut reply).await.unwrap(), 0, "{reply:?}");
            }
            let reply = String::from_utf8(reply).unwrap();
            assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
            assert!(reply.contains(&format!("\r\ncontent-type: {OPENMETRICS}\r\n")), "{reply}");
        }
        server.abort();
    }

    #[tokio::test]
    async fn more_connections_than_are_served_wait() {
        let address = "127.0.0.1:0".parse().map(MetricsAddress::Tcp).unwrap();
        let metrics = MetricsListener::bind(&address).await.unwrap().unwrap();
        let MetricsListener::Tcp(listener) = &metrics else { panic!("not TCP") };
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(metrics.serve(|| async { Some("x 1\n".to_owned()) }));
        let mut streams = Vec::new();
        for _ in 0..=MAX_CONNECTIONS {
            streams.push(TcpStream::connect(address).await.unwrap());
        }
        let mut last = streams.pop().unwrap();
        last.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        let mut reply = [0; 12];
        let early = tokio::time::timeout(Duration::from_millis(100), last.read_exact(&mut reply));
        early.await.unwrap_err();
        drop(streams);
        last.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"HTTP/1.1 200");
        server.abort();
    }
}
