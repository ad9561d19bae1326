"""What went wrong, in words that say what to do about it."""

from botocore import exceptions
from botocore.exceptions import ClientError


class Trouble(Exception):
    pass


# What AWS calls credentials that it does not take.
REFUSED_CREDENTIALS = {
    "ExpiredToken",
    "ExpiredTokenException",
    "InvalidAccessKeyId",
    "InvalidClientTokenId",
    "InvalidSignatureException",
    "SignatureDoesNotMatch",
    "UnrecognizedClientException",
}
CREDENTIALS = "sign in with `aws configure` or `aws sso login`, or set AWS_PROFILE or AWS_ACCESS_KEY_ID and the like"


def explained(error: Exception, what: str) -> Trouble:
    """What botocore's exception of a call means."""
    match error:
        case exceptions.NoCredentialsError() | exceptions.PartialCredentialsError() | exceptions.TokenRetrievalError():
            return Trouble(f"{what}: there are no AWS credentials; {CREDENTIALS}")
        case exceptions.NoRegionError():
            return Trouble(f"{what}: no region is set; set AWS_REGION")
        case exceptions.ProfileNotFound():
            return Trouble(f"{what}: {error}; AWS_PROFILE names a profile of ~/.aws/config")
        case exceptions.HTTPClientError() | exceptions.ConnectionError():
            return Trouble(f"{what}: {error}; see whether AWS_REGION is right, and whether there is a way there")
        case ClientError():
            return Trouble(f"{what}: {advice(error)}")
        case _:
            return Trouble(f"{what}: {error}")


def advice(error: ClientError) -> str:
    code = error.response["Error"].get("Code", "")
    message = error.response["Error"].get("Message", "")
    said = f"{code}: {message}"
    if code in REFUSED_CREDENTIALS:
        return f"AWS does not take the credentials ({said}); {CREDENTIALS}"
    if code.startswith("AccessDenied") or code == "403":
        return f"the credentials do not allow it ({said}); ask whoever keeps the account for that permission"
    if code == "ResourceLimitExceeded":
        return (
            f"a quota is used up ({said}); ask for more under Service Quotas, Amazon SageMaker, or give another "
            "InstanceType=..., or a smaller MinInstances=..."
        )
    if "image" in message.lower() and ("not found" in message or "does not exist" in message):
        return f"the image is not in ECR ({said}); leave out --skip-image, or give the Tag=... of one that is"
    return said


def code_of(error: ClientError) -> str:
    return error.response["Error"].get("Code", "")
