"""A ResponsesAgent that streams as slowly as it is told, and answers how many of its streams have been closed."""

import time

import mlflow
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent


class Slow(ResponsesAgent):
    closed = 0

    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        return ResponsesAgentResponse(output=[self.create_text_output_item(str(Slow.closed), id="m")])

    def predict_stream(self, request: ResponsesAgentRequest):
        try:
            for index in range(100):
                yield ResponsesAgentStreamEvent(**self.create_text_delta(f"{index} ", item_id="m"))
                time.sleep(float(request.input[-1].content))
        finally:
            Slow.closed += 1


mlflow.models.set_model(Slow())
