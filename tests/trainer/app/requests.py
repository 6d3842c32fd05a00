"""Requests to the page as a browser sends them, without a browser."""

import json
import urllib.error
import urllib.request
import uuid


def fetch(url, data=None, content_type="application/json", host=None):
    """Give the status and the body of an answer."""
    headers = ({"Content-Type": content_type} if data else {}) | ({"Host": host} if host else {})
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def upload(url, content, name="a.png"):
    """Send a file; give the status and the body."""
    boundary = uuid.uuid4().hex
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
    return fetch(f"{url}gradio_api/upload", body, f"multipart/form-data; boundary={boundary}")


class Visit:
    """One visit: its requests share a state on the server."""

    def __init__(self, url):
        self.url, self.session = url, uuid.uuid4().hex
        config = json.loads(fetch(f"{url}config")[1])
        self.places = {step["api_name"]: step["id"] for step in config["dependencies"] if step["api_name"]}

    def ask(self, name, *values, state=None):
        """Join the queue and wait; give whether it went well, and what came."""
        body = {"data": [state, *values], "fn_index": self.places[name], "session_hash": self.session}
        status, answer = fetch(f"{self.url}gradio_api/queue/join", json.dumps(body).encode())
        assert status == 200, answer
        with urllib.request.urlopen(f"{self.url}gradio_api/queue/data?session_hash={self.session}") as stream:
            for line in stream:
                event = json.loads(line[5:]) if line.startswith(b"data:") else {}
                if event.get("msg") == "process_completed":
                    return event["success"], event["output"]
        raise AssertionError("the stream ended without an answer")


def as_file(path):
    return {"path": path, "meta": {"_type": "gradio.FileData"}}
