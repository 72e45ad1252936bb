"""The foundation models that a charter may name, each behind `fedhelp_server.broker.provider`."""

from __future__ import annotations

from pathlib import Path

from fedhelp_secure.charter import Charter
from fedhelp_server.broker.credentials import Credential
from fedhelp_server.broker.egress import EgressRules
from fedhelp_server.broker.provider import Provider
from fedhelp_server.broker.providers.open_inference_grpc import OpenInferenceGrpc
from fedhelp_server.broker.providers.open_inference_http import OpenInferenceHttp
from fedhelp_server.broker.providers.openai_embeddings import OpenAiEmbeddings

_REMOTE: dict[str, type[OpenInferenceHttp | OpenInferenceGrpc | OpenAiEmbeddings]] = {
    "open-inference-http": OpenInferenceHttp,
    "open-inference-grpc": OpenInferenceGrpc,
    "openai-embeddings": OpenAiEmbeddings,
}


def make_provider(
    charter: Charter,
    rules: EgressRules,
    *,
    credential: Credential | None = None,
    model_file: Path | None = None,
) -> Provider:
    """The one that ``charter`` names; connects to nothing yet.

    Raises EgressMisconfigured, LocalModelRefused or CharterRefused.
    """
    if charter.foundation_model.provider == "local-onnx":
        from fedhelp_server.broker.providers.local_onnx import LocalOnnx

        return LocalOnnx(charter, model_file)
    return _REMOTE[charter.foundation_model.provider](charter, rules, credential)
