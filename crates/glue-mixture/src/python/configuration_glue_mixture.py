"""Configuration of a mixture of experts in the form of Model-GLUE."""

from transformers import AutoConfig, PretrainedConfig


class GlueMixtureConfig(PretrainedConfig):
    """What `config.json` of a mixture says; `base` is the configuration of the dense model that the experts share."""

    model_type = "glue_mixture"
    sub_configs = {"base": AutoConfig}

    def __init__(
        self,
        base=None,
        level="ffn",
        experts=("0",),
        experts_per_token=1,
        dense_layers=0,
        mixed_layers=(),
        routing="token",
        pool="mean",
        router=None,
        whole=False,
        router_model=None,
        router_layer=0,
        hidden_size=None,
        **kwargs,
    ):
        if isinstance(base, dict):
            base = AutoConfig.for_model(**base)
        self.base = base
        self.level = level
        self.experts = list(experts)
        self.experts_per_token = experts_per_token
        self.dense_layers = dense_layers
        self.mixed_layers = list(mixed_layers)
        self.routing = routing
        self.pool = pool
        self.router = dict(router or {"kind": "linear"})
        self.whole = whole
        self.router_model = router_model
        self.router_layer = router_layer
        self.hidden_size = hidden_size if base is None else base.hidden_size
        if base is not None:
            kwargs["tie_word_embeddings"] = base.tie_word_embeddings
            self.vocab_size = base.vocab_size
            self.num_hidden_layers = base.num_hidden_layers
        kwargs.pop("vocab_size", None)
        kwargs.pop("num_hidden_layers", None)
        super().__init__(**kwargs)

    def get_text_config(self, *args, **kwargs):
        """The configuration that caches and generation look at."""
        return self if self.base is None else self.base
