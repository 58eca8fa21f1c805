"""A gRPC server without TLS. It says its port, and ends when its standard input does.

It also says when a call of Wait has ended before it was answered."""

import sys
import threading
from concurrent import futures

import grpc


def echo(request, context):
    context.send_initial_metadata([("caller", dict(context.invocation_metadata()).get("caller", ""))])
    context.set_trailing_metadata([("bytes-bin", bytes(range(256)))])
    return request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def total(requests, context):
    return str(sum(int(request) for request in requests)).encode()


def converse(requests, context):
    for request in requests:
        yield b"you say " + request


def begin(request, context):
    yield b"so far"
    context.abort(grpc.StatusCode.DATA_LOSS, "and no further: \u00e9")


def wait(request, context):
    ended = threading.Event()
    context.add_callback(ended.set)
    print("waits", flush=True)
    ended.wait()
    print("waits no more", flush=True)
    return b""


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing")


class Methods(grpc.GenericRpcHandler):
    """Messages are bytes as they are, so that nothing needs to be generated."""

    def service(self, call):
        return {
            "/demo.Demo/Echo": grpc.unary_unary_rpc_method_handler(echo),
            "/demo.Demo/Count": grpc.unary_stream_rpc_method_handler(count),
            "/demo.Demo/Sum": grpc.stream_unary_rpc_method_handler(total),
            "/demo.Demo/Converse": grpc.stream_stream_rpc_method_handler(converse),
            "/demo.Demo/Begin": grpc.unary_stream_rpc_method_handler(begin),
            "/demo.Demo/Wait": grpc.unary_unary_rpc_method_handler(wait),
            "/demo.Demo/Fail": grpc.unary_unary_rpc_method_handler(fail),
        }.get(call.method)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers((Methods(),))
print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
server.stop(None)
