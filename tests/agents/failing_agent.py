"""A ResponsesAgent that fails: at once, or after its first words when the question says "later"."""

import mlflow
from mlflow.pyfunc import ResponsesAgent
from mlflow.types.responses import ResponsesAgentRequest, ResponsesAgentResponse, ResponsesAgentStreamEvent


class Failing(ResponsesAgent):
    def predict(self, request: ResponsesAgentRequest) -> ResponsesAgentResponse:
        raise ValueError("the agent's tool is broken")

    def predict_stream(self, request: ResponsesAgentRequest):
        if "later" in str(request.input[-1].content):
            yield ResponsesAgentStreamEvent(**self.create_text_delta("Let me", item_id="m"))
        raise ValueError("the agent's tool is broken")


mlflow.models.set_model(Failing())
