"""A ResponsesAgent that takes the seconds it is told, and notes when a stream of its is closed early."""

import time

import mlflow
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent


class Slow(ResponsesAgent):
    closed = 0

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        if request.input[-1].content == "closed?":
            return self._say(str(Slow.closed))
        time.sleep(float(request.input[-1].content))
        return self._say("done")

    def _say(self, text: str) -> ResponsesAgentResponse:
        return ResponsesAgentResponse(output=[self.create_text_output_item(text, id="m")])

    def predict_stream(self, request: ResponsesAgentRequest):
        try:
            for index in range(100):
                yield ResponsesAgentStreamEvent(**self.create_text_delta(f"{index} ", item_id="m"))
                time.sleep(float(request.input[-1].content))
        finally:
            Slow.closed += 1


mlflow.models.set_model(Slow())
