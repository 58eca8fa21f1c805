"""A gRPC client: asks a server at an address for one thing, and says as JSON what came of it.

Usage: grpc_client.py ADDRESS WHAT [CA_FILE NAME]. With a file of authorities, by TLS, to a server
whose certificate has this name."""

import json
import queue
import sys

import grpc


def method(channel, kind, name):
    """Messages are bytes as they are, so that nothing needs to be generated."""
    return getattr(channel, kind)(f"/demo.Demo/{name}")


def status(error):
    return [error.code().name, error.details()]


def unary(channel):
    answer, call = method(channel, "unary_unary", "Echo").with_call(b"hello", metadata=[("caller", "a test")])
    metadata, trailers = dict(call.initial_metadata()), dict(call.trailing_metadata())
    return [answer.decode(), metadata["caller"], trailers["bytes-bin"] == bytes(range(256)), call.code().name]


def large(channel):
    message = b"x" * 3_000_000
    return method(channel, "unary_unary", "Echo")(message) == message


def many(channel):
    echo = method(channel, "unary_unary", "Echo")
    calls = [echo.future(str(number).encode()) for number in range(200)]
    return [int(call.result()) for call in calls] == list(range(200))


def server_streaming(channel):
    return [int(number) for number in method(channel, "unary_stream", "Count")(b"1000")] == list(range(1000))


def client_streaming(channel):
    return int(method(channel, "stream_unary", "Sum")(str(number).encode() for number in range(1000)))


def bidirectional(channel):
    """Each message is said when the answer to the one before has come."""
    words = queue.Queue()
    answers = method(channel, "stream_stream", "Converse")(iter(words.get, None))
    heard = []
    for word in [b"one", b"two", b"three"]:
        words.put(word)
        heard.append(next(answers).decode())
    words.put(None)
    return heard + [word.decode() for word in answers] + [answers.code().name]


def error(channel):
    try:
        method(channel, "unary_unary", "Fail")(b"")
    except grpc.RpcError as error:
        return status(error)


def error_after_messages(channel):
    heard = []
    try:
        for message in method(channel, "unary_stream", "Begin")(b""):
            heard.append(message.decode())
    except grpc.RpcError as error:
        return heard + status(error)


def unknown(channel):
    try:
        method(channel, "unary_unary", "Nothing")(b"")
    except grpc.RpcError as error:
        return error.code().name


def deadline(channel):
    try:
        method(channel, "unary_unary", "Wait")(b"", timeout=0.5)
    except grpc.RpcError as error:
        return error.code().name


def given_up(channel):
    try:
        method(channel, "unary_unary", "Wait")(b"")
    except grpc.RpcError as error:
        return error.code().name


def cancel(channel):
    """Ends the call when a line comes in."""
    call = method(channel, "unary_unary", "Wait").future(b"")
    sys.stdin.readline()
    call.cancel()
    return call.code().name


address, what, *authorities = sys.argv[1:]
if authorities:
    with open(authorities[0], "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    channel = grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", authorities[1])])
else:
    channel = grpc.insecure_channel(address)
with channel:
    print(json.dumps({name: globals()[name](channel) for name in what.split(",")}))
