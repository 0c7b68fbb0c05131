"""OTLP receivers over HTTP and gRPC, built from OpenTelemetry's own messages, that misbehave on
demand.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

ACCEPT, REFUSE, FORBID, LEAD, DROP, DIE = "accept", "refuse", "forbid", "lead", "drop", "die"
"""What a receiver does with a request: take it; ask for a retry; refuse it for good; lead it
elsewhere, which HTTP can; break the connection without an answer; stop existing."""


@dataclass
class Receiver:
    """What arrived, and how the receiver behaves: `behaves(n)` says what happens to request n, from
    0.
    """

    behaves: Callable[[int], str] = lambda _number: ACCEPT
    delay_s: float = 0.0
    rejects: int = 0
    endpoint: str = ""
    requests: int = 0
    accepted: list[Any] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def next_action(self, metadata: dict[str, str]) -> str:
        """What to do with the request that has just come."""
        with self.lock:
            number, self.requests = self.requests, self.requests + 1
            self.metadata.append(metadata)
        time.sleep(self.delay_s)
        return self.behaves(number)

    def take(self, request: trace_service_pb2.ExportTraceServiceRequest) -> Any:
        """Keep the request's spans, all but `rejects`, and answer."""
        self.accepted.append(request)
        response = trace_service_pb2.ExportTraceServiceResponse()
        if self.rejects:
            response.partial_success.rejected_spans = self.rejects
            response.partial_success.error_message = "too old"
        return response

    @property
    def span_ids(self) -> list[int]:
        """Ids of the accepted spans, in order of arrival."""
        return [int.from_bytes(span.span_id, "big") for _, _, span in self.spans()]

    def spans(self) -> Iterator[tuple[Any, Any, Any]]:
        """Resource, scope and span of everything accepted."""
        for request in self.accepted:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        yield resource.resource, scope.scope, span


@contextmanager
def http_receiver(**behaviour: Any) -> Iterator[Receiver]:
    """A receiver of OTLP over HTTP."""
    receiver = Receiver(**behaviour)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            action = receiver.next_action(headers | {"path": self.path})
            if action in (DROP, DIE):
                self.close_connection = True
                if action == DIE:
                    server.socket.close()
                    threading.Thread(target=server.shutdown).start()
                return
            if action == ACCEPT:
                plain = gzip.decompress(body) if headers.get("content-encoding") == "gzip" else body
                message = trace_service_pb2.ExportTraceServiceRequest.FromString(plain)
                self._answer(200, receiver.take(message).SerializeToString())
            else:
                self._answer({REFUSE: 503, FORBID: 401, LEAD: 301}[action], b"")

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            if status == 503:
                self.send_header("Retry-After", "1")
            if status == 301:
                self.send_header("Location", "https://elsewhere.example/v1/traces")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Tests are quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def grpc_receiver(**behaviour: Any) -> Iterator[Receiver]:
    """A receiver of OTLP over gRPC."""
    receiver = Receiver(**behaviour)

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
            action = receiver.next_action(
                {key: str(value) for key, value in context.invocation_metadata()}
            )
            if action == ACCEPT:
                return receiver.take(request)
            if action == DIE:
                server.stop(None)
            code = (
                grpc.StatusCode.UNAUTHENTICATED if action == FORBID else grpc.StatusCode.UNAVAILABLE
            )
            return context.abort(code, f"{action} by the test")

    server = grpc.server(ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        server.stop(None).wait()


RECEIVERS: Sequence[tuple[str, Any]] = (("http/protobuf", http_receiver), ("grpc", grpc_receiver))
