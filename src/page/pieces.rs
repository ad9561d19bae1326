//! Bytes that are passed to a connection in pieces. The server copies each piece that it gets, so a
//! slow client would otherwise hold a copy of a whole state.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;

/// Size of a piece in bytes, about the size of a connection's buffer.
const PIECE: usize = 64 << 10;

/// The bytes that are left.
#[derive(Debug)]
pub struct Pieces(pub Bytes);

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let length = self.0.len().min(PIECE);
        (length > 0).then(|| self.0.split_to(length))
    }
}

impl Stream for Pieces {
    type Item = Result<Bytes, Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.next().map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pieces_are_the_whole() {
        let whole = Bytes::from((0..3 * PIECE + 7).map(|number| number as u8).collect::<Vec<_>>());
        let pieces: Vec<Bytes> = Pieces(whole.clone()).collect();
        assert_eq!(pieces.len(), 4);
        assert_eq!(pieces.concat(), whole);
        assert_eq!(Pieces(Bytes::new()).next(), None);
    }
}
