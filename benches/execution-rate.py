"""How many empty actions a farm runs in a second, from Execute to the result.

    python benches/execution-rate.py ADDRESS [ACTIONS [AT_ONCE]]

ADDRESS is that of a `cask serve --execution` with at least one worker, as HOST:PORT. Needs the published stubs of BuildGrid; the environment that
`server/tests/clients/bgd/run` makes has them: target/clients/bgd-*/bin/python. This client takes its part of the processor
too.
"""

import hashlib
import queue
import sys
import threading
import time

import grpc
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2 as reapi
from buildgrid._protos.build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as services

BATCH_BLOBS = 500


def digest_of(data):
    return reapi.Digest(hash=hashlib.sha256(data).hexdigest(), size_bytes=len(data))


def upload_actions(channel, count):
    """Actions that differ from all before them."""
    blobs, actions = [], []
    for number in range(count):
        command = reapi.Command(arguments=["/bin/true", str(time.time_ns()), str(number)]).SerializeToString()
        action = reapi.Action(command_digest=digest_of(command), input_root_digest=digest_of(b"")).SerializeToString()
        blobs += [command, action]
        actions.append(digest_of(action))
    cas = services.ContentAddressableStorageStub(channel)
    for start in range(0, len(blobs), BATCH_BLOBS):
        batch = reapi.BatchUpdateBlobsRequest()
        for data in blobs[start : start + BATCH_BLOBS]:
            batch.requests.add(digest=digest_of(data), data=data)
        cas.BatchUpdateBlobs(batch)
    return actions


def main(address, count=1000, at_once=32):
    channel = grpc.insecure_channel(address)
    execution = services.ExecutionStub(channel)
    waiting, wrong = queue.Queue(), []
    for action in upload_actions(channel, count):
        waiting.put(action)

    def run():
        while True:
            try:
                action = waiting.get_nowait()
            except queue.Empty:
                return
            last = None
            for last in execution.Execute(reapi.ExecuteRequest(action_digest=action)):
                pass
            response = reapi.ExecuteResponse()
            last.response.Unpack(response)
            if response.status.code or response.result.exit_code or response.cached_result:
                wrong.append(response)

    threads = [threading.Thread(target=run) for _ in range(at_once)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - start
    print(f"{count} actions in {seconds:.2f} s: {count / seconds:.0f} a second, {len(wrong)} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], *map(int, sys.argv[2:])))
