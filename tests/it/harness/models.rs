//! Model directories, each made for one test from the models in `tests/models`.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// The folder of a model in `tests/models`.
pub fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(name)
}

/// A model that computes `y = factor * x`. Each factor gives another content.
pub fn scale(factor: f32) -> Vec<u8> {
    let mut bytes = fs::read(fixture("scale").join("model.onnx")).unwrap();
    replace_once(&mut bytes, &1234.5f32.to_le_bytes(), &factor.to_le_bytes());
    bytes
}

/// A models root, as the platform's `/opt/ml/models`. It is deleted with the test.
#[derive(Debug)]
pub struct Models {
    root: TempDir,
    cache: TempDir,
}

impl Models {
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("longshore-models-").tempdir().unwrap();
        // The server may run as another user.
        set_mode(root.path(), 0o755);
        let cache = tempfile::Builder::new().prefix("longshore-cache-").tempdir().unwrap();
        Self { root, cache }
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The default cache of prepared models of this test's servers. Each test starts with an empty
    /// one.
    pub fn cache(&self) -> &Path {
        self.cache.path()
    }

    /// A path below the root, which need not exist.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root().join(name)
    }

    /// Copies a fixture to `<root>/<name>/model`, where the platform would unpack it, and returns
    /// that path as the `url` of a load.
    pub fn place(&self, fixture_name: &str, name: &str) -> String {
        let target = self.path(name).join("model");
        copy(&fixture(fixture_name), &target);
        target.display().to_string()
    }

    /// Copies a fixture like [`Self::place`], and makes its content unique: the server loads equal
    /// contents only once, whatever their names.
    pub fn place_another(&self, fixture_name: &str, name: &str) -> String {
        let url = self.place(fixture_name, name);
        let file = Path::new(&url).join("model.onnx");
        let mut bytes = fs::read(&file).unwrap();
        // A `doc_string` (field 6 of `ModelProto`).
        bytes.extend([6 << 3 | 2, u8::try_from(name.len()).unwrap()]);
        bytes.extend(name.as_bytes());
        fs::write(&file, bytes).unwrap();
        url
    }

    /// Copies a fixture like [`Self::place`], and adds a manifest with this text.
    pub fn place_with_manifest(&self, fixture_name: &str, name: &str, manifest: &str) -> String {
        let url = self.place(fixture_name, name);
        fs::write(Path::new(&url).join("longshore.json"), manifest).unwrap();
        url
    }

    /// Writes a model to `<root>/<name>/model/model.onnx` and returns its url.
    pub fn place_model(&self, name: &str, model: &[u8]) -> String {
        let target = self.path(name).join("model");
        fs::create_dir_all(&target).unwrap();
        fs::write(target.join("model.onnx"), model).unwrap();
        target.display().to_string()
    }

    /// Places a model that computes `y = factor * x`.
    pub fn place_scale(&self, name: &str, factor: f32) -> String {
        self.place_model(name, &scale(factor))
    }

    /// Places a model with 8 MiB of weights, which multiplies a row of 1024 numbers by them and
    /// adds the products up. Each weight is 0.5, except in two columns: there the first two differ
    /// from 0.5 by as much, so that equal numbers give the same sum. The weights depend on the
    /// name: the server keeps equal contents and equal constants only once.
    pub fn place_big(&self, name: &str) -> String {
        /// Numbers in a row of the weights.
        const COLUMNS: usize = 2048;
        let url = self.place("external_big", name);
        let mut weights = vec![0.5f32; Self::BIG_BYTES / 4];
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        for (column, bits) in [hash >> 40, hash >> 20].into_iter().enumerate() {
            // Few enough digits for every sum to be exact.
            let difference = (bits % 2048) as f32 / 4096.0;
            weights[column] += difference;
            weights[column + COLUMNS] -= difference;
        }
        let weights: Vec<u8> = weights.into_iter().flat_map(f32::to_le_bytes).collect();
        fs::write(Path::new(&url).join("weights.bin"), weights).unwrap();
        url
    }

    /// Size of the weights of [`Self::place_big`], in bytes.
    pub const BIG_BYTES: usize = 8 << 20;

    /// Places a model whose load takes a few seconds at most: the function bomb with fewer levels.
    pub fn place_slow(&self, name: &str, levels: u8) -> String {
        let url = self.place("bad/function_bomb", name);
        let file = Path::new(&url).join("model.onnx");
        let mut bytes = fs::read(&file).unwrap();
        // The graph comes first in the file. Its only node calls the function of the top level.
        let at = find(&bytes, b"f27").unwrap();
        bytes[at + 1..at + 3].copy_from_slice(format!("{:02}", levels - 1).as_bytes());
        fs::write(&file, bytes).unwrap();
        url
    }
}

/// Copies a directory with its contents.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            // `fs::copy` would copy the permissions too, and the checkout may be read-only.
            fs::write(target, fs::read(entry.path()).unwrap()).unwrap();
        }
    }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn replace_once(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let at = find(bytes, from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    assert_eq!(find(bytes, from), None, "the bytes to replace occur twice");
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}
