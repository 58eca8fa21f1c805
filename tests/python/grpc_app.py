"""A gRPC server without TLS. It says its port, and ends when its standard input does."""

import sys
from concurrent import futures

import grpc


def echo(request, context):
    return request


def count(request, context):
    for number in range(int(request)):
        yield str(number).encode()


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing")


class Methods(grpc.GenericRpcHandler):
    """Messages are bytes as they are, so that nothing needs to be generated."""

    def service(self, call):
        return {
            "/demo.Demo/Echo": grpc.unary_unary_rpc_method_handler(echo),
            "/demo.Demo/Count": grpc.unary_stream_rpc_method_handler(count),
            "/demo.Demo/Fail": grpc.unary_unary_rpc_method_handler(fail),
        }.get(call.method)


server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
server.add_generic_rpc_handlers((Methods(),))
print("port", server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
sys.stdin.read()
server.stop(None)
