"""Every answer of the management API that a test sees is held against services/edge/openapi.json."""
import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import jsonschema

DOCUMENT = json.loads((Path(__file__).resolve().parents[2] / "services/edge/openapi.json").read_text())
# {id} in a path takes one segment; the more exact path wins, as in routes.def.
PATHS = sorted(((re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)) + "$"), path) for path in DOCUMENT["paths"]),
               key=lambda pair: pair[1].count("{"))
RESOLVER = jsonschema.RefResolver.from_schema(DOCUMENT)


def schema_of(method, path, status):
    """The schema of the answer; None: not of the management API."""
    for pattern, name in PATHS:
        if pattern.match(path) and method.lower() in DOCUMENT["paths"][name]:
            responses = DOCUMENT["paths"][name][method.lower()]["responses"]
            described = responses.get(str(status))
            assert described or status >= 400, f"{method} {name}: {status} is not described"
            return next(iter((described or responses["default"])["content"].values()))["schema"]
    return None


def check(answer):
    path = urlsplit(answer.request.url).path
    if not path.startswith("/api/v1/") or not answer.headers.get("content-type", "").startswith(("application/json", "application/problem+json")):
        return answer
    schema = schema_of(answer.request.method, path, answer.status_code)
    if schema is not None:
        jsonschema.Draft202012Validator(schema, resolver=RESOLVER).validate(answer.json())
    return answer
