"""Errors that the tool reports to the user, each with the remedy."""

from botocore import exceptions
from botocore.exceptions import ClientError


class DeployError(Exception):
    """A failure that the user can put right; its text is all that the tool prints."""


# Error codes of AWS for credentials that it refuses.
REFUSED_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
CREDENTIALS = "sign in with `aws configure` or `aws sso login`, or set AWS_PROFILE or AWS_ACCESS_KEY_ID"


def explain(error: Exception, operation: str) -> DeployError:
    """Turns an exception of botocore into an error that names the operation and the remedy."""
    match error:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError() | exceptions.TokenRetrievalError():
            text = f"there are no AWS credentials; {CREDENTIALS}"
        case exceptions.ProfileNotFound():
            text = f"{error}; AWS_PROFILE must name a profile of ~/.aws/config"
        case exceptions.HTTPClientError() | exceptions.ConnectionError():
            text = f"{error}; check AWS_REGION and the network"
        case ClientError() if error_code(error) in REFUSED_CREDENTIALS:
            text = f"AWS refuses the credentials ({error_text(error)}); {CREDENTIALS}"
        case ClientError() if error_code(error).startswith("AccessDenied") or error_code(error) == "403":
            text = f"the credentials do not allow this call ({error_text(error)}); ask the owner of the account for it"
        case ClientError():
            text = error_text(error)
        case _:
            text = str(error)
    return DeployError(f"{operation}: {text}")


def error_code(error: ClientError) -> str:
    """The error code in the answer of AWS, such as `AccessDenied`."""
    return error.response["Error"].get("Code", "")


def error_text(error: ClientError) -> str:
    """The error code and the message in the answer of AWS."""
    return f"{error_code(error)}: {error.response['Error'].get('Message', '')}"
