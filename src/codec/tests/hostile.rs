//! Damaged, random and oversized requests. Each is refused in a short message, or fits the model.

use super::*;

/// Valid requests in every format, with the models that accept them.
fn valid_requests() -> Vec<(String, Bytes, Signature)> {
    let mixed = signature(
        &[
            input("x", DataType::F32, &[-1, 2]),
            input("n", DataType::I64, &[-1, 1]),
            input("s", DataType::String, &[-1]),
        ],
        &[output("y", DataType::F32, &[-1])],
    );
    let json = |body: &str, signature: &Signature| {
        (
            "application/json".to_owned(),
            Bytes::from(body.to_owned()),
            signature.clone(),
        )
    };
    let mut requests = vec![
        json(
            r#"{"signature_name":"s","instances":[[1.5,-2e-3],[NaN,null]],"k":{"a":["\u00e9"]}}"#,
            &pairs(),
        ),
        json(
            r#"{"inputs":{"s":["a\n",{"b64":"//79"}],"x":[[1,2],[3,4]],"n":[5,6]}}"#,
            &mixed,
        ),
        json(r#"[{"x":[1,2],"n":5,"s":"é"},{"s":"b","n":6,"x":[3,4]}]"#, &mixed),
        json(
            r#"{"id":"7","outputs":[{"name":"y"}],"inputs":[{"data":[[1,2]],"name":"x","shape":[1,2],"datatype":"FP32"},{"name":"n","shape":[1,1],"datatype":"INT64","data":[7]},{"name":"s","shape":[1],"datatype":"BYTES","data":["a"]}],"parameters":{"binary_data_output":true}}"#,
            &mixed,
        ),
        (
            "application/jsonlines".to_owned(),
            Bytes::from_static(b"{\"x\":[1,2],\"n\":5,\"s\":\"a\"}\r\n\n{\"s\":\"b\",\"n\":6,\"x\":[3,4]}\n"),
            mixed.clone(),
        ),
        (
            "text/csv".to_owned(),
            Bytes::from_static("1,2,3,\"a,\"\"b\"\"\"\r\n,-4.5e3,6,é\n".as_bytes()),
            mixed,
        ),
    ];
    for data_type in DataType::ALL {
        let signature = identity(data_type);
        let value = [Value::Tensor(sample(data_type))];
        requests.push((
            "application/x-npy".to_owned(),
            encoded(Format::Npy, &row_plan(), &signature, &value).body,
            signature.clone(),
        ));
        let reply = encoded(Format::TritonBinary, &row_plan(), &signature, &value);
        let body = reply.body;
        let at = body.windows(9).position(|w| w == b"\"outputs\"").unwrap();
        // "inputs" is one byte shorter; a space keeps the size of the header.
        let body = [&body[..at], b"\"inputs\" ", &body[at + 9..]].concat();
        requests.push((reply.content_type.into_owned(), body.into(), signature));
    }
    requests
}

fn check(content_type: &str, body: Bytes, signature: &Signature) {
    match decode(content_type, body, signature) {
        Ok(request) => {
            assert_eq!(request.inputs.len(), signature.inputs.len());
            for (tensor, spec) in request.inputs.iter().zip(&signature.inputs) {
                assert_eq!(tensor.data_type(), spec.data_type);
                assert!(spec.accepts(tensor.shape()), "{spec} {:?}", tensor.shape());
            }
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 900, "{} bytes: {message}", message.len());
            assert!(!message.contains(['\n', '\0']), "{message:?}");
        }
    }
}

#[test]
fn valid_requests_cut_short_anywhere_are_refused_or_fit() {
    for (content_type, body, signature) in valid_requests() {
        assert!(
            decode(&content_type, body.clone(), &signature).is_ok(),
            "{content_type} {body:?}"
        );
        for end in 0..body.len() {
            check(&content_type, body.slice(..end), &signature);
        }
    }
}

#[test]
fn messages_stay_short_whatever_the_request_and_the_signature_hold() {
    let specs: Vec<_> = (0..200)
        .map(|i| {
            let mut spec = input(&format!("{i}{}", "\u{7}é".repeat(2000)), DataType::F32, &[]);
            spec.dims = Some(vec![Dim::Dynamic(Some("d".repeat(3000))); 40]);
            spec
        })
        .collect();
    let one = signature(&specs[..1], &[output(&"o".repeat(9000), DataType::F32, &[])]);
    let many = signature(&specs, &vec![output(&"o".repeat(9000), DataType::F32, &[]); 200]);
    let name = serde_json::to_string(&specs[0].name).unwrap();
    let long = format!("\"{}\"", "\\u0007é".repeat(3000));
    let digits = "7".repeat(5000);
    for signature in [&one, &many] {
        for body in [
            "[]".to_owned(),
            format!("[{long}]"),
            format!("[{digits}]"),
            format!("[0.{digits}]"),
            format!("[{{{long}: 1}}]"),
            format!("[{{{name}: {long}}}]"),
            format!("[{{{name}: 1, {name}: 2}}]"),
            format!("[{{{name}: 1}}]"),
            format!("{{\"inputs\": {{{long}: 1}}}}"),
            format!("{{\"inputs\":[{{\"name\":{long}}}]}}"),
            format!(
                "{{\"inputs\":[{{\"name\":{name},\"datatype\":{long},\"shape\":[{}1],\"data\":[1]}}]}}",
                "1000000000000,".repeat(30)
            ),
            format!(
                "{{\"inputs\":[{{\"name\":{name},\"datatype\":\"FP32\",\"shape\":[{}1],\"data\":[1]}}]}}",
                "1000000000000,".repeat(30)
            ),
            format!("{{\"outputs\":[{{\"name\":{long}}}],\"inputs\":[]}}"),
        ] {
            check("application/json", body.clone().into(), signature);
            check("application/jsonlines", body.clone().into(), signature);
            check("text/csv", body.clone().into(), signature);
            check(
                &format!("text/csv;charset={}", "x".repeat(5000)),
                body.clone().into(),
                signature,
            );
            check(&"x".repeat(5000), body.clone().into(), signature);
            check(
                &format!(
                    "application/vnd.sagemaker-triton.binary+json;json-header-size=\"{}\"",
                    "é".repeat(500)
                ),
                body.into(),
                signature,
            );
        }
        check(
            "application/x-npy",
            Bytes::from_static(b"\x93NUMPY\x01\0\x00\0"),
            signature,
        );
        for accept in [
            "x/y,".repeat(4000),
            format!("application/x-npy; output={}", "x".repeat(5000)),
        ] {
            let message = negotiate(Some(&accept), Format::Json, &row_plan(), &many)
                .unwrap_err()
                .to_string();
            assert!(message.len() < 900, "{message}");
        }
    }
}

#[test]
fn refuses_more_strings_than_the_limit_in_every_format() {
    let signature = signature(&[input("x", DataType::String, &[-1, 1])], &[]);
    let count = crate::codec::numbers::MAX_STRINGS + 1;
    let binary_header = format!(
        r#"{{"inputs":[{{"name":"x","shape":[{count},1],"datatype":"BYTES","parameters":{{"binary_data_size":{}}}}}]}}"#,
        count * 4
    );
    let triton = format!(
        "{};json-header-size={}",
        Format::TritonBinary.media_type(),
        binary_header.len()
    );
    let npy_header = format!("{{'descr': '|S1', 'fortran_order': False, 'shape': ({count}, 1), }}\n");
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend(u16::try_from(npy_header.len()).unwrap().to_le_bytes());
    npy.extend(npy_header.bytes());
    npy.extend(vec![b'a'; count]);
    let bodies: [(&str, Vec<u8>); 4] = [
        (
            "application/json",
            format!("[{}[\"\"]]", "[\"\"],".repeat(count - 1)).into_bytes(),
        ),
        ("text/csv", "a\n".repeat(count).into_bytes()),
        (&triton, [binary_header.into_bytes(), vec![0; count * 4]].concat()),
        ("application/x-npy", npy),
    ];
    for (content_type, body) in bodies {
        let error = decode(content_type, Bytes::from(body), &signature).unwrap_err();
        assert!(
            error.to_string().contains("more than 1048576 strings"),
            "{content_type}: {error}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn changed_requests_are_refused_or_fit(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0u8..3), 1..6),
    ) {
        let requests = valid_requests();
        let (content_type, body, signature) = which.get(&requests);
        let mut body = body.to_vec();
        for (at, byte, change) in changes {
            let at = at.index(body.len() + 1);
            match change {
                0 if at < body.len() => body[at] = byte,
                1 if at < body.len() => { body.remove(at); }
                _ => body.insert(at, byte),
            }
        }
        check(content_type, body.into(), signature);
    }

    #[test]
    fn any_bytes_of_any_type_are_refused_or_fit(
        bytes in prop::collection::vec(any::<u8>(), 0..60),
        content_type in "(application/(json|jsonlines|x-npy|vnd.sagemaker-triton.binary\\+json)|text/csv)(;json-header-size=[0-9]{1,2})?",
        data_type in prop::sample::select(DataType::ALL.to_vec()),
    ) {
        check(&content_type, bytes.into(), &identity(data_type));
    }

    #[test]
    fn any_header_text_is_understood_or_refused(content_type in any::<String>(), accept in "[a-z*/;,q=\"\\\\0-9. ]{0,60}") {
        check(&content_type, Bytes::from_static(b"[1,2]"), &pairs());
        if let Err(error) = negotiate(Some(&accept), Format::Json, &row_plan(), &pairs()) {
            prop_assert!(error.to_string().len() < 900);
        }
    }
}
