"""Fills the cache of rocrate-validator with the contexts that our crates name, so that it validates without a network.

Runs in the validator's own environment: ``python rocrate_contexts.py CACHE``. A context is given with the terms that we
use, as RO-Crate 1.1 (whose words are those of schema.org 10) and the workflow-run vocabulary define them: a term that is
not here is none that a crate of ours may use before somebody has looked it up.
"""

from __future__ import annotations

import json
import sys
from io import BytesIO

SCHEMA_ORG = """
    CreateAction CreativeWork Dataset Grant Organization Person PropertyValue SoftwareApplication SoftwareSourceCode
    about actionStatus additionalType affiliation agent author codeRepository contentSize creator datePublished
    description email encodingFormat endTime error exampleOfWork familyName fundedItem funder givenName hasPart
    identifier instrument keywords license mentions name object operatingSystem propertyID result sdDatePublished
    softwareRequirements softwareVersion startTime subjectOf url value version
"""
OTHERS = {"File": "http://schema.org/MediaObject", "conformsTo": "http://purl.org/dc/terms/conformsTo"}
WORKFLOW_RUN = "ContainerImage DockerImage SIFImage containerImage environment registry sha256 tag"

CONTEXTS = {
    "https://w3id.org/ro/crate/1.1/context": {
        **{term: f"http://schema.org/{term}" for term in SCHEMA_ORG.split()},
        **OTHERS,
    },
    "https://w3id.org/ro/terms/workflow-run/context": {
        term: f"https://w3id.org/ro/terms/workflow-run#{term}" for term in WORKFLOW_RUN.split()
    },
}


def main(cache: str) -> None:
    from requests.adapters import HTTPAdapter
    from rocrate_validator.utils.cache_warmup import warm_up_urls
    from rocrate_validator.utils.http import HttpRequester
    from urllib3 import HTTPResponse

    class Local(HTTPAdapter):
        """Answers with a context; no request leaves this process."""

        def send(self, request, **_):
            body = json.dumps({"@context": CONTEXTS[request.url]}).encode()
            headers = {"Content-Type": "application/ld+json"}
            answer = HTTPResponse(
                BytesIO(body), headers, 200, preload_content=False, request_url=request.url, request_method="GET"
            )
            return self.build_response(request, answer)

    HttpRequester.initialize_cache(cache_path=cache, cache_max_age=-1, offline=False)
    HttpRequester().session.mount("https://", Local())
    results = warm_up_urls(list(CONTEXTS))
    assert [result.status for result in results] == ["ok"] * len(CONTEXTS), results


if __name__ == "__main__":
    main(sys.argv[1])
