//! How the bytes of a connection travel: over TCP, or over TLS.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::error::ClientError;

/// A way to the server and back.
pub(super) trait Link {
    /// Reads what has arrived and passes it to `each`. A plain connection reads into `buffer`. Ready without
    /// an error means that bytes have arrived, although `each` may not have been called. The end of the
    /// connection is an error.
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        each: impl FnMut(&mut [u8]) -> Result<(), ClientError>,
    ) -> Poll<Result<(), ClientError>>;

    /// Takes bytes to send, and returns how many.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, ClientError>>;

    /// Sends what was taken and waits.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ClientError>>;
}

impl Link for TcpStream {
    #[inline]
    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
        mut each: impl FnMut(&mut [u8]) -> Result<(), ClientError>,
    ) -> Poll<Result<(), ClientError>> {
        match Pin::new(self).poll_read(cx, buffer) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(ClientError::Closed(None))),
            Poll::Ready(Ok(bytes)) => Poll::Ready(each(&mut buffer[..bytes])),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    #[inline]
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, ClientError>> {
        Pin::new(self).poll_write(cx, bytes).map_err(ClientError::from)
    }

    /// Does nothing: what was taken is in the kernel's buffer.
    #[inline]
    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ClientError>> {
        Poll::Ready(Ok(()))
    }
}
