//! Tests of lists, pages and tags.

use super::*;

#[test]
fn lists_are_filtered_and_sorted() {
    let mut plane = Plane::serving();
    for name in ["b-two", "A-one", "c-three"] {
        plane.must(
            "CreateEndpoint",
            json!({"EndpointName": name, "EndpointConfigName": "c"}),
        );
    }
    plane.settle("c-three", Err("no"));
    let created = |plane: &Plane, name: &str| plane.records.endpoints[name].created;
    let table = [
        (json!({}), vec!["c-three", "A-one", "b-two", "e"]),
        (
            json!({"SortOrder": "Ascending"}),
            vec!["e", "b-two", "A-one", "c-three"],
        ),
        (
            json!({"SortBy": "Name", "SortOrder": "Ascending"}),
            vec!["A-one", "b-two", "c-three", "e"],
        ),
        (
            json!({"SortBy": "Status", "SortOrder": "Ascending"}),
            vec!["A-one", "b-two", "c-three", "e"],
        ),
        (json!({"NameContains": "O"}), vec!["A-one", "b-two"]),
        (json!({"StatusEquals": "InService"}), vec!["e"]),
        (json!({"StatusEquals": "Failed"}), vec!["c-three"]),
        (json!({"StatusEquals": "OutOfService"}), vec![]),
        (
            json!({"CreationTimeAfter": created(&plane, "A-one")}),
            vec!["c-three", "A-one"],
        ),
        (
            json!({"CreationTimeBefore": created(&plane, "A-one")}),
            vec!["b-two", "e"],
        ),
        (
            json!({"LastModifiedTimeAfter": created(&plane, "c-three") + 0.5}),
            vec!["c-three"],
        ),
    ];
    for (body, expected) in table {
        let answer = plane.must("ListEndpoints", body.clone()).body;
        let names = answer["Endpoints"].as_array().unwrap().iter();
        let names = Vec::from_iter(names.map(|endpoint| endpoint["EndpointName"].as_str().unwrap()));
        assert_eq!(names, expected, "{body}");
        assert_eq!(answer.get("NextToken"), None);
    }
}

#[test]
fn pages_miss_and_repeat_nothing_while_items_are_deleted() {
    for sort in [
        json!({"SortBy": "Name"}),
        json!({"SortBy": "CreationTime", "SortOrder": "Ascending"}),
    ] {
        let mut plane = Plane::new();
        let create = |plane: &mut Plane, name: &str| {
            plane.must("CreateModel", json!({"ModelName": name, "PrimaryContainer": {}}));
        };
        for index in 0..25 {
            create(&mut plane, &format!("m{index:02}"));
        }
        let mut seen = Vec::new();
        let mut body = sort.clone();
        for page in 0.. {
            let answer = plane.must("ListModels", body.clone()).body;
            let models = answer["Models"].as_array().unwrap();
            assert_eq!(models.len(), [10, 10, 5][page]);
            seen.extend(
                models
                    .iter()
                    .map(|model| model["ModelName"].as_str().unwrap().to_owned()),
            );
            // Deletes the item that the token of the next page contains.
            let last = seen.last().unwrap().clone();
            plane.must("DeleteModel", json!({"ModelName": last}));
            let Some(token) = answer.get("NextToken") else {
                break;
            };
            body["NextToken"] = token.clone();
        }
        let unique = std::collections::BTreeSet::from_iter(&seen);
        assert_eq!((seen.len(), unique.len()), (25, 25), "{sort}");
    }
    let message = Plane::new().refused("ListModels", json!({"NextToken": "%"}));
    assert_eq!(message, "Invalid NextToken.");
}

#[test]
fn tags_are_kept_until_their_resource_is_deleted() {
    let mut plane = Plane::new();
    plane.must(
        "CreateModel",
        model(json!({"PrimaryContainer": {}, "Tags": [{"Key": "a", "Value": "1"}]})),
    );
    let arn = "arn:aws:sagemaker:eu-central-1:000000000000:model/m";
    let tags = |plane: &mut Plane| plane.must("ListTags", json!({"ResourceArn": arn})).body["Tags"].clone();
    plane.must(
        "AddTags",
        json!({"ResourceArn": arn, "Tags": [{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}]}),
    );
    assert_eq!(
        tags(&mut plane),
        json!([{"Key": "a", "Value": "2"}, {"Key": "b", "Value": ""}])
    );
    plane.must("DeleteTags", json!({"ResourceArn": arn, "TagKeys": ["a", "none"]}));
    assert_eq!(tags(&mut plane), json!([{"Key": "b", "Value": ""}]));

    let many = (0..50).map(|index| json!({"Key": format!("k{index}"), "Value": ""}));
    let body = json!({"ResourceArn": arn, "Tags": Vec::from_iter(many)});
    assert_eq!(plane.ask("AddTags", body).unwrap_err().code(), "ResourceLimitExceeded");

    plane.must("DeleteModel", json!({"ModelName": "m"}));
    plane.must("CreateModel", model(json!({"PrimaryContainer": {}})));
    assert_eq!(tags(&mut plane), json!([]));
}
