use super::*;

#[test]
fn a_length_that_does_not_match_the_shape_is_refused() {
    let error = Tensor::from_vec(vec![2, 3], vec![0f32; 5]).unwrap_err();
    assert_eq!(error.to_string(), "the shape [2, 3] needs 6 elements, 5 given");
    let error = Tensor::from_bytes(DataType::F64, vec![2], Bytes::from_static(&[0; 15])).unwrap_err();
    assert_eq!(error.to_string(), "the shape [2] needs 16 bytes, 15 given");
}

#[test]
fn a_declared_shape_that_overflows_is_refused_without_allocating() {
    let shape = vec![usize::MAX, 2];
    assert_eq!(element_count(&shape), None);
    assert!(matches!(
        Tensor::from_vec(shape, Vec::<u8>::new()),
        Err(TensorError::TooLarge { .. })
    ));
}

#[test]
fn a_zero_dimension_empties_a_shape_however_large_the_others_are() {
    assert_eq!(element_count(&[usize::MAX, 0, 7]), Some(0));
    assert!(
        Tensor::from_vec(vec![usize::MAX, 0, 7], Vec::<f32>::new())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_scalar_has_one_element() {
    let tensor = Tensor::from_vec(vec![], vec![7i64]).unwrap();
    assert_eq!((tensor.len(), tensor.as_slice::<i64>().unwrap()), (1, &[7i64][..]));
}

#[test]
fn unaligned_bytes_are_copied_and_aligned_ones_are_borrowed() {
    let body = Bytes::from_owner(OwnedElements(vec![1.5f64, 2.5]));
    let aligned = Tensor::from_bytes(DataType::F64, vec![2], body.clone()).unwrap();
    assert_eq!(aligned.as_bytes().unwrap().as_ptr(), body.as_ptr());

    let mut shifted = vec![0u8; 17];
    shifted[1..].copy_from_slice(&body);
    let shifted = Bytes::from(shifted);
    for offset in 1..8 {
        let mut padded = vec![0u8; offset];
        padded.extend_from_slice(&shifted[1..]);
        let window = Bytes::from(padded).slice(offset..);
        let tensor = Tensor::from_bytes(DataType::F64, vec![2], window).unwrap();
        assert_eq!(tensor.as_slice::<f64>().unwrap(), &[1.5, 2.5]);
    }
}

#[test]
fn elements_can_only_be_read_as_their_own_type() {
    let tensor = Tensor::from_vec(vec![1], vec![1i32]).unwrap();
    assert!(tensor.as_slice::<f32>().is_none());
    assert!(tensor.as_slice::<u32>().is_none());
    assert!(tensor.as_slice::<i32>().is_some());
}
