//! `application/x-npz`: named arrays from `numpy.savez` and `savez_compressed`, and the sparse
//! matrix of `scipy.sparse.save_npz`.
//!
//! A file is a ZIP archive with a member `name.npy` for each array. A sparse matrix consists of
//! several arrays: `format`, `shape`, `data` and the indices of the values. The decoder makes it
//! dense and assigns it to the only input.
//!
//! Invariants:
//! - The total of the declared sizes is checked against a limit before anything is unpacked.
//! - A member whose size differs from the declared one is refused.
//! - Encrypted members and duplicate names are refused, and so are members that are neither stored
//!   nor deflated.

use std::io::{Cursor, Read, Write};

use bytes::Bytes;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

use super::alloc;
use super::bind::{Array, RequestArray, bind};
use super::error::{DecodeError, EncodeError, excerpt, excerpt_bytes};
use super::npy::{self, StoredArray};
use super::open_inference::TensorOutput;
use super::schema::Schema;
use super::sparse::{MAX_DENSE_BYTES, OutOfBounds, Sparse, SparseError, dense_bytes, too_large};
use super::{DecodedRequest, Dialect, Format, ReplyPlan};

/// Limit on the members of an archive. The description of a member takes more memory than the
/// member's few bytes in the body.
const MAX_MEMBERS: usize = 1024;
/// The signature of an entry of an archive's directory.
const ENTRY: &[u8; 4] = b"PK\x01\x02";
/// The suffix of the names of arrays.
const SUFFIX: &str = ".npy";
/// Limit on the size of the member that holds the shape of a matrix.
const MAX_SHAPE_BYTES: u64 = 4096;
/// The members that every sparse matrix has.
const SPARSE: [&str; 3] = ["format", "shape", "data"];

pub(super) fn decode(body: &Bytes, schema: &Schema) -> Result<DecodedRequest, DecodeError> {
    let mut archive = Archive::open(body).map_err(malformed)?;
    if archive.total().is_none_or(|total| total > MAX_DENSE_BYTES as u64) {
        return Err(too_large("the archive"));
    }
    let mut arrays = Vec::with_capacity(archive.members.len());
    for index in 0..archive.members.len() {
        arrays.push(archive.array(index)?);
    }
    let given = match is_sparse(&archive.members) {
        true => vec![RequestArray {
            name: None,
            array: Array::Sparse(sparse(arrays)?),
        }],
        false => arrays
            .into_iter()
            .map(|(name, stored)| RequestArray {
                name: Some(name),
                array: Array::Stored(stored),
            })
            .collect(),
    };
    let inputs = bind(given, schema, "a sparse matrix")?;
    Ok(DecodedRequest::new(inputs, ReplyPlan::new(Dialect::Rows)))
}

/// Estimates the bytes of the unpacked arrays from the sizes that the archive declares.
pub(super) fn decoded_bytes(body: &Bytes, schema: &Schema) -> Option<usize> {
    let mut archive = Archive::open(body).ok()?;
    let total = archive.total()?;
    let total = usize::try_from(total).ok().filter(|&total| total <= MAX_DENSE_BYTES)?;
    if !is_sparse(&archive.members) {
        return Some(total);
    }
    let shape = archive.members.iter().position(|member| member.name == "shape")?;
    if archive.members[shape].bytes > MAX_SHAPE_BYTES {
        return None;
    }
    let (_, stored) = archive.array(shape).ok()?;
    let input = schema.signature().inputs.get(schema.only_input()?)?;
    dense_bytes(matrix_shape(&stored).ok()?, input.data_type)?.checked_add(total)
}

fn malformed(problem: impl Into<String>) -> DecodeError {
    DecodeError::malformed(Format::Npz, problem)
}

struct Archive<'a> {
    zip: ZipArchive<Cursor<&'a [u8]>>,
    members: Vec<ArchiveMember>,
}

struct ArchiveMember {
    /// The name without the suffix.
    name: String,
    /// The declared size.
    bytes: u64,
}

impl<'a> Archive<'a> {
    /// Reads the archive's directory.
    fn open(body: &'a [u8]) -> Result<Self, String> {
        let entries = memchr::memmem::find_iter(body, ENTRY);
        if entries.take(MAX_MEMBERS + 1).count() > MAX_MEMBERS {
            return Err(format!("it has more than {MAX_MEMBERS} members"));
        }
        let mut zip = ZipArchive::new(Cursor::new(body))
            .map_err(|error| format!("it is not a whole ZIP archive ({error}); send what numpy.savez writes"))?;
        if zip.has_duplicate_names() {
            return Err("it has two members with the same name".to_owned());
        }
        if zip.is_empty() {
            return Err("it has no arrays".to_owned());
        }
        let mut members = Vec::with_capacity(zip.len());
        for index in 0..zip.len() {
            let member = zip.by_index_raw(index).map_err(|error| error.to_string())?;
            let shown = || excerpt_bytes(member.name_raw());
            let name = std::str::from_utf8(member.name_raw())
                .ok()
                .and_then(|name| name.strip_suffix(SUFFIX))
                .ok_or_else(|| {
                    format!(
                        "its member {} is not an array; the names of arrays end in {SUFFIX}",
                        shown()
                    )
                })?;
            if member.encrypted() {
                return Err(format!("its member {} is encrypted", shown()));
            }
            if !matches!(
                member.compression(),
                CompressionMethod::Stored | CompressionMethod::Deflated
            ) {
                return Err(format!(
                    "its member {} is compressed by {}; use numpy.savez or savez_compressed",
                    shown(),
                    member.compression()
                ));
            }
            let (name, bytes) = (name.to_owned(), member.size());
            members.push(ArchiveMember { name, bytes });
        }
        Ok(Self { zip, members })
    }

    /// The total of the declared sizes. `None` on overflow.
    fn total(&self) -> Option<u64> {
        let sizes = self.members.iter().map(|member| member.bytes);
        sizes.into_iter().try_fold(0u64, u64::checked_add)
    }

    /// Unpacks the member at `index`.
    fn array(&mut self, index: usize) -> Result<(String, StoredArray), DecodeError> {
        let ArchiveMember { name, bytes } = &self.members[index];
        let problem =
            |problem: String| malformed(format!("its member {}: {problem}", excerpt(&format!("{name}{SUFFIX}"))));
        let size = usize::try_from(*bytes).map_err(|_| too_large("the archive"))?;
        let mut file = alloc::with_capacity(size)?;
        let member = self.zip.by_index(index).map_err(|error| problem(error.to_string()))?;
        // Never reads more than the allocated buffer holds.
        let mut limited = member.take(*bytes);
        limited
            .read_to_end(&mut file)
            .map_err(|error| problem(format!("it cannot be unpacked ({error})")))?;
        let more = limited
            .into_inner()
            .read(&mut [0])
            .map_err(|error| problem(format!("it cannot be unpacked ({error})")))?;
        if file.len() != size || more != 0 {
            return Err(problem(format!("it does not have the declared {size} bytes")));
        }
        let stored = StoredArray::parse(&Bytes::from(file)).map_err(problem)?;
        Ok((name.clone(), stored))
    }
}

fn is_sparse(members: &[ArchiveMember]) -> bool {
    SPARSE
        .iter()
        .all(|name| members.iter().any(|member| member.name == *name))
}

fn matrix_shape(stored: &StoredArray) -> Result<[usize; 2], DecodeError> {
    let sizes = stored
        .indices()
        .map_err(|problem| malformed(format!("its shape: {problem}")))?;
    match sizes.as_slice() {
        &[rows, columns] => usize::try_from(rows)
            .ok()
            .zip(usize::try_from(columns).ok())
            .map(|(rows, columns)| [rows, columns])
            .ok_or_else(|| too_large("the sparse matrix")),
        _ => Err(malformed("its sparse matrix does not have two axes")),
    }
}

/// Builds a matrix from the members of a file of SciPy.
fn sparse(arrays: Vec<(String, StoredArray)>) -> Result<Sparse, DecodeError> {
    let mut arrays = arrays;
    let mut take = |name: &str| {
        let at = arrays.iter().position(|(other, _)| other == name);
        at.map(|at| arrays.swap_remove(at).1)
            .ok_or_else(|| malformed(format!("its sparse matrix has no member {}", excerpt(name))))
    };
    let format = take("format")?.text().unwrap_or_default();
    let shape = matrix_shape(&take("shape")?)?;
    let values = take("data")?;
    let indices = |name: &str, stored: StoredArray| {
        stored
            .indices()
            .map_err(|problem| malformed(format!("its member {}: {problem}", excerpt(name))))
    };
    let count = values.len();
    let matrix = match format.as_str() {
        "csr" | "csc" => {
            let minor = indices("indices", take("indices")?)?;
            let starts = indices("indptr", take("indptr")?)?;
            let by_row = format == "csr";
            let lines = if by_row { shape[0] } else { shape[1] };
            let increases = starts.windows(2).all(|pair| pair[0] <= pair[1]);
            let is_whole = starts.first() == Some(&0) && starts.last() == Some(&(minor.len() as u64));
            if Some(starts.len()) != lines.checked_add(1) || !increases || !is_whole {
                return Err(malformed(format!(
                    "its member \"indptr\" must go from 0 to the number of indices in {lines} steps"
                )));
            }
            let lines = (0u64..).zip(starts.windows(2));
            let majors = lines.flat_map(|(line, ends)| (ends[0]..ends[1]).map(move |_| line));
            let positions = majors.zip(&minor).map(|(major, &minor)| match by_row {
                true => (major, minor),
                false => (minor, major),
            });
            Sparse::new(shape, positions, count, values)
        }
        "coo" => {
            let rows = indices("row", take("row")?)?;
            let columns = indices("col", take("col")?)?;
            if rows.len() != columns.len() {
                return Err(malformed("its members \"row\" and \"col\" differ in length"));
            }
            Sparse::new(shape, rows.into_iter().zip(columns), count, values)
        }
        other => {
            return Err(malformed(format!(
                "sparse matrices of the format {} are not supported; convert with tocsr() before sending",
                excerpt(other)
            )));
        }
    };
    matrix.map_err(|error| match error {
        SparseError::OutOfBounds(OutOfBounds { row, column }) => malformed(format!(
            "a value is at row {row}, column {column}, outside its matrix of {} rows and {} columns",
            shape[0], shape[1]
        )),
        SparseError::Count { positions, values } => {
            malformed(format!("it has {values} values for {positions} positions"))
        }
        SparseError::Size => too_large("the sparse matrix"),
        SparseError::NoMemory => DecodeError::OutOfMemory,
    })
}

/// Writes all outputs by name, as `numpy.savez` does.
pub(super) fn encode(outputs: &[TensorOutput<'_>]) -> Result<Vec<u8>, EncodeError> {
    let cannot = |error: &dyn std::fmt::Display| EncodeError::CannotCarry {
        format: Format::Npz,
        problem: format!("the archive cannot be written ({error}); accept application/json"),
    };
    let mut files = Vec::with_capacity(outputs.len());
    for output in outputs {
        files.push((output.name, npy::encode(output.name, output.tensor)?));
    }
    // Each member has two headers, both with its name.
    let bytes = files.iter().map(|(name, file)| 2 * name.len() + file.len() + 256);
    let out: Vec<u8> = alloc::with_capacity(bytes.fold(256, usize::saturating_add))?;
    let mut zip = ZipWriter::new(Cursor::new(out));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    for (name, file) in files {
        let options = options.large_file(u32::try_from(file.len()).is_err());
        zip.start_file(format!("{name}{SUFFIX}"), options)
            .map_err(|error| cannot(&error))?;
        zip.write_all(&file).map_err(|error| cannot(&error))?;
    }
    Ok(zip.finish().map_err(|error| cannot(&error))?.into_inner())
}

#[cfg(test)]
mod tests;
