//! The decompressed bytes of an archive.
//!
//! Errors of the source pass through a decompressor, which has errors of its own. A broken
//! connection must not look like a damaged archive, nor the other way round. So source errors
//! travel as an [`UnpackError`] inside an [`io::Error`]. The limits that are checked here, on bytes
//! read and bytes decompressed, travel the same way.

use std::io::{self, BufRead, BufReader, Chain, Cursor, Read};

use flate2::bufread::GzDecoder;

use super::BLOCK;
use super::error::UnpackError;
use super::kind::{FileFormat, GZIP};
use super::unpack::UnpackLimits;

/// zstd's largest window up to level 19. With --ultra and --long it reaches 128 MiB and more.
/// Memory for the largest window allowed here has to be free for every archive that is fetched,
/// because only the archive's bytes reveal which one it needs.
const MAX_WINDOW_LOG: u32 = 23;
pub const MAX_WINDOW_BYTES: u64 = 1 << MAX_WINDOW_LOG;

/// Decompressed bytes to which the ratio does not apply: small archives of zeros do no harm.
const RATIO_FREE_BYTES: u64 = 16 << 20;

/// Bytes of one read from the source.
const BUFFER_BYTES: usize = 128 << 10;

/// The head that was read to detect the format, and then the rest of the source.
type WholeSource<R> = BufReader<Chain<Cursor<Vec<u8>>, CountedSource<R>>>;

/// Reads a source and counts its bytes.
pub struct CountedSource<R> {
    source: R,
    read: u64,
    most: u64,
    /// The limit that the error names.
    bytes: u64,
}

impl<R: Read> Read for CountedSource<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            return match self.source.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(io::Error::other(UnpackError::Source(error))),
                Ok(read) => {
                    self.read = self.read.saturating_add(read as u64);
                    // A compressed stream may go on without end and yield nothing.
                    if self.read > self.most {
                        return Err(io::Error::other(UnpackError::TooLarge(self.bytes)));
                    }
                    Ok(read)
                }
            };
        }
    }
}

pub struct DecodedArchive<R: Read> {
    from: Decoder<R>,
    out: u64,
    /// Bytes of holes in sparse files, which the archive does not store.
    holes: u64,
    ratio: u64,
}

enum Decoder<R: Read> {
    Plain(WholeSource<R>),
    Gzip(GzipMembers<WholeSource<R>>),
    Zstd(zstd::stream::read::Decoder<'static, WholeSource<R>>),
}

impl<R: Read> DecodedArchive<R> {
    /// Reads the first block of `source` and detects its format.
    pub fn open(source: R, bounds: &UnpackLimits) -> Result<(FileFormat, Self), UnpackError> {
        // A tar archive's headers and padding are not part of what it unpacks to.
        let around = bounds.entries.saturating_mul(2 * BLOCK as u64);
        let mut tap = CountedSource {
            source,
            read: 0,
            most: bounds.bytes.saturating_add(around).max(RATIO_FREE_BYTES),
            bytes: bounds.bytes,
        };
        let mut head = Vec::with_capacity(BLOCK);
        tap.by_ref()
            .take(BLOCK as u64)
            .read_to_end(&mut head)
            .map_err(UnpackError::read)?;
        let kind = FileFormat::of(&head)?;
        let whole = BufReader::with_capacity(BUFFER_BYTES, Cursor::new(head).chain(tap));
        let from = match kind {
            FileFormat::Tar | FileFormat::Bare => Decoder::Plain(whole),
            FileFormat::Gzip => Decoder::Gzip(GzipMembers::new(whole)),
            FileFormat::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(whole).map_err(UnpackError::Damaged)?;
                decoder.window_log_max(MAX_WINDOW_LOG).map_err(UnpackError::Damaged)?;
                Decoder::Zstd(decoder)
            }
        };
        let decoded = Self {
            from,
            out: 0,
            holes: 0,
            ratio: bounds.ratio,
        };
        Ok((kind, decoded))
    }

    /// Counts the holes of a sparse file against the ratio, as no archived bytes stand for them.
    pub fn count_holes(&mut self, bytes: u64) -> Result<(), UnpackError> {
        self.holes = self.holes.saturating_add(bytes);
        if self.is_within_ratio() {
            Ok(())
        } else {
            Err(UnpackError::Ratio(self.ratio))
        }
    }

    /// Whether the decompressed bytes are at most what the bytes read may become.
    fn is_within_ratio(&self) -> bool {
        let (whole, out) = match &self.from {
            Decoder::Plain(whole) => (Some(whole), 0),
            Decoder::Gzip(members) => (members.from.as_ref().map(GzDecoder::get_ref), self.out),
            Decoder::Zstd(decoder) => (Some(decoder.get_ref()), self.out),
        };
        let read = whole.map_or(0, |whole| whole.get_ref().get_ref().1.read);
        let most = read.saturating_mul(self.ratio).saturating_add(RATIO_FREE_BYTES);
        out.saturating_add(self.holes) <= most
    }
}

impl<R: Read> Read for DecodedArchive<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = match &mut self.from {
            Decoder::Plain(from) => from.read(buffer),
            Decoder::Gzip(from) => from.read(buffer),
            Decoder::Zstd(from) => from.read(buffer),
        }?;
        self.out = self.out.saturating_add(read as u64);
        if read == 0 || self.is_within_ratio() {
            Ok(read)
        } else {
            Err(io::Error::other(UnpackError::Ratio(self.ratio)))
        }
    }
}

/// Concatenated gzip members, as parallel compressors write them. Zeros may follow: tapes and disks
/// pad with them.
struct GzipMembers<B> {
    /// None after the last.
    from: Option<GzDecoder<B>>,
}

impl<B: BufRead> GzipMembers<B> {
    fn new(from: B) -> Self {
        Self {
            from: Some(GzDecoder::new(from)),
        }
    }

    /// Moves to the next member. Returns whether there is one.
    fn advance(&mut self) -> io::Result<bool> {
        let Some(mut from) = self.from.take().map(GzDecoder::into_inner) else {
            return Ok(false);
        };
        let is_next = from.fill_buf()?.first() == GZIP.first();
        if !is_next {
            zeros(&mut from)?;
        }
        self.from = is_next.then(|| GzDecoder::new(from));
        Ok(is_next)
    }
}

impl<B: BufRead> Read for GzipMembers<B> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(from) = &mut self.from {
            match from.read(buffer)? {
                0 if self.advance()? => {}
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

/// Reads to the end, and refuses anything other than zeros.
fn zeros(from: &mut impl BufRead) -> io::Result<()> {
    loop {
        let rest = from.fill_buf()?;
        if rest.is_empty() {
            return Ok(());
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(io::Error::other(UnpackError::Trailing));
        }
        let read = rest.len();
        from.consume(read);
    }
}
