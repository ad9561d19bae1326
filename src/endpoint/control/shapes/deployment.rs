//! The shape of a deployment configuration, which is checked and returned, but has no effect: here
//! all traffic moves at once.

use super::super::shape::Shape::{Choice, Integer, List, Structure};
use super::super::shape::{Member, Shape, optional, required, text};
use super::ONE_OR_MORE;
use crate::endpoint::pattern::NOT_BLANK;

const UP_TO_AN_HOUR: Shape = Integer { min: 0, max: 3600 };
const EXECUTION_SECONDS: Shape = Integer { min: 600, max: 28800 };

const CAPACITY: Shape = Structure(&[
    required("Type", Choice(&["INSTANCE_COUNT", "CAPACITY_PERCENT"])),
    required("Value", ONE_OR_MORE),
]);

const TRAFFIC: Member = required(
    "TrafficRoutingConfiguration",
    Structure(&[
        required("Type", Choice(&["ALL_AT_ONCE", "CANARY", "LINEAR"])),
        required("WaitIntervalInSeconds", UP_TO_AN_HOUR),
        optional("CanarySize", CAPACITY),
        optional("LinearStepSize", CAPACITY),
    ]),
);

pub(in super::super) const DEPLOYMENT_CONFIG: Shape = Structure(&[
    optional(
        "BlueGreenUpdatePolicy",
        Structure(&[
            TRAFFIC,
            optional("TerminationWaitInSeconds", UP_TO_AN_HOUR),
            optional("MaximumExecutionTimeoutInSeconds", EXECUTION_SECONDS),
        ]),
    ),
    optional(
        "RollingUpdatePolicy",
        Structure(&[
            required("MaximumBatchSize", CAPACITY),
            required("WaitIntervalInSeconds", UP_TO_AN_HOUR),
            optional("MaximumExecutionTimeoutInSeconds", EXECUTION_SECONDS),
            optional("RollbackMaximumBatchSize", CAPACITY),
        ]),
    ),
    optional(
        "AutoRollbackConfiguration",
        Structure(&[optional(
            "Alarms",
            List {
                min: 1,
                max: 10,
                of: &Structure(&[optional("AlarmName", text(255, &NOT_BLANK))]),
            },
        )]),
    ),
]);
