//! Tensors that go through a format and back.

use super::*;

/// Converts a response in row form to a request.
fn as_request(format: Format, body: &[u8]) -> Bytes {
    match format {
        Format::Json => String::from_utf8(body.to_vec())
            .unwrap()
            .replacen("predictions", "instances", 1)
            .into(),
        Format::JsonLines
        | Format::Csv
        | Format::Npy
        | Format::TritonBinary
        | Format::Npz
        | Format::RecordIo
        | Format::LibSvm
        | Format::Octets => Bytes::copy_from_slice(body),
    }
}

#[test]
fn every_type_goes_through_every_format_and_back() {
    for data_type in DataType::ALL {
        let signature = identity(data_type);
        for format in [Format::Json, Format::JsonLines, Format::Csv, Format::Npy, Format::Npz] {
            let body = encoded(format, &row_plan(), &signature, &[Value::Tensor(sample(data_type))]).body;
            let request = decode(format.media_type(), as_request(format, &body), &signature);
            assert_eq!(request.unwrap().inputs, [sample(data_type)], "{data_type} {format:?}");
        }
    }
}

/// A tensor of any type and of a shape with at least one axis.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    let shape = prop::collection::vec(1usize..4, 1..4);
    (shape, prop::sample::select(DataType::ALL.to_vec()), any::<u64>()).prop_map(|(shape, data_type, seed)| {
        let count: usize = shape.iter().product();
        let mut state = seed | 1;
        let mut next = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 11
        };
        match data_type {
            DataType::String => {
                let text = |bits: u64| Bytes::from(char::from_u32(bits as u32 % 0xd800).unwrap_or('a').to_string());
                // NumPy cannot distinguish a trailing NUL from padding.
                let items = (0..count)
                    .map(|_| text(next() + 1))
                    .map(|b| if b == "\0" { Bytes::from_static(b"0") } else { b });
                Tensor::from_strings(shape, items.collect()).unwrap()
            }
            DataType::Bool => Tensor::from_bools(shape, (0..count).map(|_| (next() & 1) as u8).collect()).unwrap(),
            _ => {
                let size = data_type.size().unwrap();
                let mut bytes: Vec<u8> = (0..count * size).map(|_| next() as u8).collect();
                // A NaN does not equal itself. Clearing an exponent bit in every float avoids it.
                if matches!(
                    data_type,
                    DataType::F16 | DataType::Bf16 | DataType::F32 | DataType::F64
                ) {
                    bytes
                        .chunks_exact_mut(size)
                        .for_each(|element| element[size - 1] &= 0xbf);
                }
                Tensor::from_bytes(data_type, shape, bytes.into()).unwrap()
            }
        }
    })
}

#[test]
fn strings_of_any_bytes_survive_in_formats_that_can_hold_them() {
    let bytes = [strings(&[3], &[b"\xff\xfe", b"", b"\0a"])];
    let signature = identity(DataType::String);
    for format in [Format::Json, Format::JsonLines] {
        let body = encoded(format, &row_plan(), &signature, &[Value::Tensor(bytes[0].clone())]).body;
        assert_eq!(
            decode(format.media_type(), as_request(format, &body), &signature)
                .unwrap()
                .inputs,
            bytes
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn any_tensor_goes_through_every_format_and_back(value in any_tensor()) {
        let signature = identity(value.data_type());
        for format in [Format::Json, Format::JsonLines, Format::Npy] {
            let body = encoded(format, &row_plan(), &signature, &[Value::Tensor(value.clone())]).body;
            let request = decode(format.media_type(), as_request(format, &body), &signature).unwrap();
            prop_assert_eq!(&request.inputs[0], &value);
        }
        // CSV keeps only rows and columns, not the other axes.
        let body = encoded(Format::Csv, &row_plan(), &signature, &[Value::Tensor(value.clone())]).body;
        let request = decode("text/csv", body, &signature).unwrap();
        prop_assert_eq!(&request.inputs[0], &value.clone().reshape(request.inputs[0].shape().to_vec()).unwrap());
        prop_assert_eq!(request.inputs[0].shape()[0], value.shape()[0]);
    }
}
