//! Accepts connections, knows who is at their other end, and keeps their number bounded.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

use crate::access::{Caller, Peer};

/// Connections of one listener at a time; more wait in the kernel's queue. A caller needs one.
const MAX_CONNECTIONS: usize = 64;
/// How long to wait when the system cannot give a connection, most likely for lack of file
/// descriptors: at once it would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections as they come in. It never ends and never fails; tonic wants to be told that in
/// these types.
pub type Incoming<S> = ReceiverStream<io::Result<Connection<S>>>;

/// A connection, who is at its other end, and its place among [`MAX_CONNECTIONS`].
#[derive(Debug)]
pub struct Connection<S> {
    stream: S,
    peer: Peer,
    _place: OwnedSemaphorePermit,
}

impl<S> Connected for Connection<S> {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

/// A socket that connections come from.
pub trait Listener: Send + Sync + 'static {
    /// A connection.
    type Stream: Send + 'static;

    /// Waits for a connection and finds out who is at its other end.
    fn next(&self) -> impl Future<Output = io::Result<(Self::Stream, Peer)>> + Send;
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn next(&self) -> io::Result<(UnixStream, Peer)> {
        let (stream, _) = self.accept().await?;
        let caller = Caller::of(&stream)?;
        Ok((stream, Peer::Local(caller)))
    }
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn next(&self) -> io::Result<(TcpStream, Peer)> {
        let (stream, address) = self.accept().await?;
        // Progress comes in small messages that must not wait for larger ones.
        stream.set_nodelay(true)?;
        Ok((stream, Peer::Remote(address)))
    }
}

/// Accepts connections until what this returns is dropped.
pub fn accept<L: Listener>(listener: L) -> Incoming<L::Stream> {
    let (sender, incoming) = mpsc::channel(1);
    tokio::spawn(async move {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            tokio::select! {
                connection = connection(&listener, &places) => {
                    if sender.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                () = sender.closed() => return,
            }
        }
    });
    ReceiverStream::new(incoming)
}

async fn connection<L: Listener>(listener: &L, places: &Arc<Semaphore>) -> Connection<L::Stream> {
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            // Nobody closes it.
            return std::future::pending().await;
        };
        match listener.next().await {
            Ok((stream, peer)) => {
                return Connection {
                    stream,
                    peer,
                    _place: place,
                };
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Connection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Connection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
