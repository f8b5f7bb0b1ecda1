//! Answers `GET /metrics`: the little of HTTP/1.1 that Prometheus needs.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tracing::warn;

use crate::serve::config::MetricsAddress;
use crate::serve::socket;

/// Most bytes of the head of a request.
const MAX_HEAD: usize = 8 * 1024;
/// Longest time for one request.
const PATIENCE: Duration = Duration::from_secs(10);
/// Requests that are answered at the same time.
const MAX_REQUESTS: usize = 8;
/// What Prometheus and others know the text by.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Where requests arrive.
#[derive(Debug)]
pub(crate) enum Incoming {
    /// A TCP address.
    Tcp(TcpListener),
    /// A socket with the rules of [`socket`].
    Unix {
        /// Where requests are accepted.
        listener: UnixListener,
        /// Removes the socket in the end.
        _socket: socket::Listener,
    },
}

impl Incoming {
    /// Listens; `None` when no address is configured.
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
        let room = Arc::new(Semaphore::new(MAX_REQUESTS));
        loop {
            let Ok(room) = Arc::clone(&room).acquire_owned().await else { return };
            let text = text.clone();
            let accepted = match &self {
                Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _room = room;
                        answer(stream, text).await;
                    });
                }),
                Self::Unix { listener, .. } => listener.accept().await.map(|(stream, _)| {
                    tokio::spawn(async move {
                        let _room = room;
                        answer(stream, text).await;
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

async fn answer<S, T, F>(mut stream: S, text: T)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: Fn() -> F,
    F: Future<Output = Option<String>>,
{
    let talk = async {
        let head = read_head(&mut stream).await?;
        let (status, body) = match route(&head) {
            Route::Metrics => match text().await {
                Some(text) => ("200 OK", text),
                None => ("503 Service Unavailable", String::new()),
            },
            Route::NotFound => ("404 Not Found", "see /metrics\n".to_owned()),
            Route::BadMethod => ("405 Method Not Allowed", String::new()),
            Route::Bad => ("400 Bad Request", String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n\
             Connection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    };
    // Who asks slowly or goes away does not matter to anybody else.
    let _ = tokio::time::timeout(PATIENCE, talk).await;
}

/// The head of a request, whole or not.
async fn read_head(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(1024);
    while head.len() < MAX_HEAD && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    Ok(head)
}

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Metrics,
    NotFound,
    BadMethod,
    Bad,
}

fn route(head: &[u8]) -> Route {
    let Some(line) =
        head.split(|byte| *byte == b'\r').next().filter(|line| line.len() < head.len())
    else {
        return Route::Bad;
    };
    let words: Vec<_> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = words[..] else { return Route::Bad };
    if !version.starts_with(b"HTTP/1.") {
        return Route::Bad;
    }
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    match (method, path) {
        (b"GET", b"/metrics") => Route::Metrics,
        (b"GET", _) => Route::NotFound,
        _ => Route::BadMethod,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_apart() {
        for (head, want) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"[..], Route::Metrics),
            (b"GET /metrics?x=1 HTTP/1.0\r\n\r\n", Route::Metrics),
            (b"GET / HTTP/1.1\r\n\r\n", Route::NotFound),
            (b"POST /metrics HTTP/1.1\r\n\r\n", Route::BadMethod),
            (b"GET /metrics", Route::Bad),
            (b"GET /metrics HTTP/2\r\n\r\n", Route::Bad),
            (b"\0\0\r\n", Route::Bad),
            (b"", Route::Bad),
        ] {
            assert_eq!(route(head), want, "{:?}", String::from_utf8_lossy(head));
        }
    }

    #[tokio::test]
    async fn the_text_is_answered_over_tcp() {
        let address = "127.0.0.1:0".parse().map(MetricsAddress::Tcp).unwrap();
        let incoming = Incoming::bind(&address).await.unwrap().unwrap();
        let Incoming::Tcp(listener) = &incoming else { panic!("not TCP") };
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(incoming.serve(|| async { Some("x 1\n".to_owned()) }));
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").await.unwrap();
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await.unwrap();
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n"), "{reply}");
        assert!(reply.ends_with("\r\n\r\nx 1\n"), "{reply}");
        server.abort();
    }
}
