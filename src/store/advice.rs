//! Advice on what to change after a refusal, in the terms and variables of each cloud.

use super::error::StoreResponse;
use super::location::Cloud;

/// The settings that locate the store.
pub(super) fn on_address(cloud: Option<Cloud>) -> &'static str {
    match cloud {
        Some(Cloud::Amazon) => "the region and endpoint in the environment",
        Some(Cloud::Google) => "GOOGLE_BASE_URL where it is set",
        Some(Cloud::Azure) => "AZURE_STORAGE_ACCOUNT_NAME, and AZURE_STORAGE_ENDPOINT where it is set",
        None => "the address",
    }
}

/// The cloud's term for a bucket.
pub(super) fn bucket(cloud: Option<Cloud>) -> &'static str {
    match cloud {
        Some(Cloud::Azure) => "container",
        Some(Cloud::Amazon | Cloud::Google) | None => "bucket",
    }
}

pub(super) fn on_credentials(cloud: Option<Cloud>) -> &'static str {
    match cloud {
        Some(Cloud::Amazon) => {
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN), give the container or instance a role, or \
             set AWS_SKIP_SIGNATURE=true for a public bucket"
        }
        Some(Cloud::Google) => {
            "set GOOGLE_APPLICATION_CREDENTIALS to a file of credentials, give the instance a service account, or set \
             GOOGLE_SKIP_SIGNATURE=true for a public bucket"
        }
        Some(Cloud::Azure) => {
            "set AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN, or AZURE_TENANT_ID and AZURE_CLIENT_ID with its secret or \
             token file, give the instance an identity, or set AZURE_SKIP_SIGNATURE=true for a public container"
        }
        None => "check the URL",
    }
}

pub(super) fn on_refusal(cloud: Option<Cloud>, response: &StoreResponse) -> &'static str {
    match cloud {
        Some(Cloud::Amazon) => amazon(response),
        Some(Cloud::Google) => google(response),
        Some(Cloud::Azure) => azure(response),
        None => "check the URL, and its query if it is a signed one, which may have expired",
    }
}

fn amazon(response: &StoreResponse) -> &'static str {
    const KEY_ID: &str = "correct AWS_ACCESS_KEY_ID";
    const SECRET: &str = "correct AWS_SECRET_ACCESS_KEY; it does not belong to the key id";
    match response.code.as_deref().unwrap_or_default() {
        "InvalidAccessKeyId" => KEY_ID,
        "SignatureDoesNotMatch" => SECRET,
        // garage has one code for every refusal.
        "AccessDenied" if response.says("No such key") => KEY_ID,
        "AccessDenied" if response.says("Invalid signature") => SECRET,
        "ExpiredToken" | "TokenRefreshRequired" => "get new credentials; these have expired",
        "InvalidToken" => "correct AWS_SESSION_TOKEN; it does not belong to the keys",
        "RequestTimeTooSkewed" => "set the clock of this machine",
        "InvalidObjectState" => "restore it from the archive first",
        _ => {
            "allow these credentials s3:GetObject on it, and s3:ListBucket on the bucket, without which a missing object is \
             refused as well"
        }
    }
}

fn google(response: &StoreResponse) -> &'static str {
    match response.code.as_deref().unwrap_or_default() {
        _ if response.says("Anonymous caller") => {
            "unset GOOGLE_SKIP_SIGNATURE and give credentials, because the bucket is not public; or check its name"
        }
        _ if response.says("billing account") => "give the project of the bucket a billing account",
        _ if response.status == 401 => {
            "correct the credentials, whose key may be wrong or deleted, and check the clock of this machine"
        }
        _ => {
            "allow these credentials storage.objects.get on it, and storage.objects.list on the bucket (both are in the role \
             Storage Object Viewer), without which a missing object is refused as well"
        }
    }
}

fn azure(response: &StoreResponse) -> &'static str {
    const SIGNATURE: &str = "correct AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, which must be of the account in \
                             AZURE_STORAGE_ACCOUNT_NAME and may have been renewed or have expired, and check the clock of \
                             this machine";
    match response.code.as_deref().unwrap_or_default() {
        "PublicAccessNotPermitted" | "NoAuthenticationInformation" => {
            "unset AZURE_SKIP_SIGNATURE and give credentials, because the container is not public"
        }
        "InvalidAuthenticationInfo" => {
            "correct the identity, whose token has expired or is not for this storage account"
        }
        "AuthenticationFailed" if response.says("time frame") => {
            "get a new AZURE_STORAGE_SAS_TOKEN, because this one has expired or is not valid yet, or set the clock of this \
             machine"
        }
        "AuthenticationFailed" if response.says("ate header") => "set the clock of this machine",
        "AuthenticationFailed" => SIGNATURE,
        // Azurite's code for a wrong signature.
        "AuthorizationFailure" if response.says("failed to authenticate") => SIGNATURE,
        "KeyBasedAuthenticationNotPermitted" => {
            "unset AZURE_STORAGE_ACCOUNT_KEY and give an identity, because the account accepts no keys"
        }
        "AuthorizationProtocolMismatch" => "use https, or a SAS token that allows http",
        "AuthorizationFailure" | "AuthorizationSourceIPMismatch" => {
            "let this machine's network through the firewall of the storage account or the addresses of the SAS token, and allow \
             it to read and list blobs"
        }
        "BlobArchived" | "BlobBeingRehydrated" => {
            "set its access tier to hot, cool or cold, and wait until it is there"
        }
        "AccountIsDisabled" => "enable the storage account",
        _ => {
            "allow these credentials to read and list blobs: by the role Storage Blob Data Reader, or sp=rl in a SAS token for \
             the container"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cloud_has_its_own_way_to_refuse() {
        let amazon = Some(Cloud::Amazon);
        let google = Some(Cloud::Google);
        let azure = Some(Cloud::Azure);
        // The beginning of Azure's message for any wrong signature.
        let unauthentic = "Server failed to authenticate the request. Make sure the value of Authorization header is formed \
                           correctly including the signature.";
        let ended =
            "Server failed to authenticate the request. Signature not valid in the specified time frame: Start [a]";
        let table = [
            (
                amazon,
                403,
                "AccessDenied",
                "Access Denied",
                "allow these credentials s3:GetObject",
            ),
            (
                google,
                403,
                "AccessDenied",
                "Access denied.",
                "allow these credentials storage.objects.get",
            ),
            (
                google,
                403,
                "AccessDenied",
                "Anonymous caller does not have",
                "unset GOOGLE_SKIP_SIGNATURE",
            ),
            (
                google,
                403,
                "UserProjectAccountProblem",
                "an absent billing account",
                "a billing account",
            ),
            (
                google,
                401,
                "AuthenticationRequired",
                "Authentication required.",
                "correct the credentials",
            ),
            (
                azure,
                403,
                "AuthenticationFailed",
                unauthentic,
                "correct AZURE_STORAGE_ACCOUNT_KEY",
            ),
            (
                azure,
                403,
                "AuthenticationFailed",
                ended,
                "get a new AZURE_STORAGE_SAS_TOKEN",
            ),
            (
                azure,
                403,
                "AuthorizationFailure",
                unauthentic,
                "correct AZURE_STORAGE_ACCOUNT_KEY",
            ),
            (
                azure,
                403,
                "AuthorizationFailure",
                "This request is not authorized",
                "the firewall",
            ),
            (
                azure,
                403,
                "AuthorizationPermissionMismatch",
                "",
                "Storage Blob Data Reader",
            ),
            (azure, 403, "AuthorizationProtocolMismatch", "", "use https"),
            (azure, 403, "KeyBasedAuthenticationNotPermitted", "", "give an identity"),
            (azure, 403, "AccountIsDisabled", "", "enable the storage account"),
            (
                azure,
                401,
                "InvalidAuthenticationInfo",
                "Issuer validation failed",
                "correct the identity",
            ),
            (azure, 409, "PublicAccessNotPermitted", "", "unset AZURE_SKIP_SIGNATURE"),
            (None, 403, "SignatureDoesNotMatch", "", "check the URL"),
        ];
        for (cloud, status, code, message, expected) in table {
            let response = StoreResponse {
                status,
                code: Some(code.to_owned()),
                message: Some(message.to_owned()),
            };
            let advice = on_refusal(cloud, &response);
            assert!(advice.contains(expected), "{response}: {advice}");
        }
    }
}
