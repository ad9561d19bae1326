"""Writes the request bodies in this folder, with the libraries that clients use.

    python tests/arrays/make.py      with numpy 2.4.6, scipy 1.17.1 and sagemaker 2.257.7

Every body holds the same matrix, in the type that its name says:

     1.5   0
     0    -2.5
     0     3
"""

import pathlib

import numpy as np
import scipy.sparse
from sagemaker.amazon.common import RecordSerializer, write_numpy_to_dense_tensor, write_spmatrix_to_sparse_tensor
from sagemaker.serializers import SparseMatrixSerializer

FOLDER = pathlib.Path(__file__).parent
MATRIX = np.array([[1.5, 0], [0, -2.5], [0, 3]])


def main():
    np.savez(FOLDER / "named.npz", x=MATRIX)
    np.savez(FOLDER / "unnamed.npz", MATRIX.astype(np.float32))
    np.savez_compressed(FOLDER / "compressed.npz", x=np.asfortranarray(MATRIX))
    np.savez(FOLDER / "several.npz", n=np.array([7, 8, 9]), x=MATRIX)
    for name in ["csr", "csc", "coo", "bsr"]:
        matrix = scipy.sparse.csr_matrix(MATRIX).asformat(name)
        (FOLDER / f"{name}.npz").write_bytes(SparseMatrixSerializer().serialize(matrix))
    scipy.sparse.save_npz(FOLDER / "csr_array.npz", scipy.sparse.csr_array(MATRIX.astype(np.float32)), compressed=False)

    (FOLDER / "dense.recordio").write_bytes(RecordSerializer().serialize(MATRIX).read())
    with open(FOLDER / "dense_labels.recordio", "wb") as file:
        write_numpy_to_dense_tensor(file, MATRIX.astype(np.float32), np.array([1.0, 0.0, 1.0]))
    with open(FOLDER / "sparse.recordio", "wb") as file:
        write_spmatrix_to_sparse_tensor(file, scipy.sparse.csr_matrix(MATRIX))
    with open(FOLDER / "integers.recordio", "wb") as file:
        write_numpy_to_dense_tensor(file, np.array([[1, 2], [-3, 4]]))


main()
