"""Mixtures of experts in the form of Model-GLUE, for transformers.

The dense model is built by transformers from the configuration of the base. Its MLPs or decoder layers are then replaced by
modules that hold the experts, so that every tensor has the name it has in the files.
"""

import copy
import functools
import inspect
import os

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_glue_mixture import GlueMixtureConfig


class Gate(nn.Module):
    """Scores of the experts, in float32: linear, or with one hidden layer."""

    def __init__(self, router, hidden_size, experts):
        super().__init__()
        if router["kind"] == "mlp":
            self.up = nn.Linear(hidden_size, router["hidden_size"])
            self.down = nn.Linear(router["hidden_size"], experts)
        else:
            self.weight = nn.Parameter(torch.zeros(experts, hidden_size))
            self.bias = nn.Parameter(torch.zeros(experts))

    def forward(self, states):
        states = states.float()
        if hasattr(self, "up"):
            inner = nn.functional.linear(states, self.up.weight.float(), self.up.bias.float())
            return nn.functional.linear(
                nn.functional.silu(inner), self.down.weight.float(), self.down.bias.float()
            )
        return nn.functional.linear(states, self.weight.float(), self.bias.float())


def init_gate(gate):
    """Zeros for a bias that was not in the files."""
    bias = getattr(gate, "bias", None)
    if bias is not None and not getattr(bias, "_is_hf_initialized", False):
        nn.init.zeros_(bias)


def init_either(init, module):
    """First values of a gate, or by `init` of anything else."""
    if isinstance(module, Gate):
        init_gate(module)
    else:
        init(module)


def choose(scores, experts_per_token):
    """Weights of all experts, zero but for the most probable ones, whose sum is 1; of equals, the first is taken."""
    probabilities = torch.softmax(scores.float(), dim=-1)
    order = torch.sort(probabilities, dim=-1, descending=True, stable=True).indices[..., :experts_per_token]
    chosen = torch.zeros_like(probabilities).scatter(-1, order, probabilities.gather(-1, order))
    return chosen / chosen.sum(dim=-1, keepdim=True)


def pooled(states, mask, pool):
    """One state for each sample, from [batch, tokens, width] and a mask of the prompt's tokens."""
    mask = mask.to(states.device).bool()
    if not mask.any(dim=1).all():
        raise ValueError("a sample has no token of a prompt")
    if pool == "mean":
        weights = mask.float().unsqueeze(-1)
        return (states.float() * weights).sum(dim=1) / weights.sum(dim=1)
    # argmax gives the first of equal values.
    place = mask.int().argmax(dim=1) if pool == "first" else mask.shape[1] - 1 - mask.flip(1).int().argmax(dim=1)
    return states[torch.arange(states.shape[0], device=states.device), place].float()


class Routes:
    """What gates need to know about the call under way, and the routes of samples, which are kept with the cache."""

    def __init__(self, config):
        self.config = config
        self.mask = None
        self.decided = {}
        self.fresh = True
        self.cached = False

    def begin(self, mask, decided, fresh, cached):
        self.mask, self.decided, self.fresh, self.cached = mask, decided, fresh, cached

    def idle(self, expert, weights):
        """Whether a layer's expert need not run: nothing of the call goes to it, nor will anything that its keys and values would
        be kept for. Of a sample's route the latter is known. Expert 0 stands for the layer where a cache is asked how long it is."""
        if self.cached and (expert == 0 or self.config.routing == "token"):
            return False
        return not bool(weights[..., expert].any())

    def weights(self, key, gate, states):
        """[batch, tokens or 1, experts]."""
        if self.config.routing == "token":
            return choose(gate(states), self.config.experts_per_token)
        if self.fresh:
            state = pooled(states, self.mask, self.config.pool)
            self.decided[key] = choose(gate(state), self.config.experts_per_token).unsqueeze(1)
        return self.decided[key].to(states.device)


class MixedMlp(nn.Module):
    """The MLPs of one layer."""

    def __init__(self, mlp, config, layer, routes):
        super().__init__()
        self.experts = nn.ModuleList([mlp] + [copy.deepcopy(mlp) for _ in config.experts[1:]])
        self.gate = Gate(config.router, config.hidden_size, len(config.experts))
        self.layer = layer
        self.routes = routes

    def forward(self, states):
        weights = self.routes.weights(self.layer, self.gate, states)
        weights = weights.expand(-1, states.shape[1], -1).reshape(-1, len(self.experts))
        flat = states.reshape(-1, states.shape[-1])
        total = torch.zeros_like(flat)
        for e, expert in enumerate(self.experts):
            # An expert sees the tokens that chose it and no others.
            rows = weights[:, e].nonzero().squeeze(-1)
            if rows.numel() > 0:
                out = expert(flat[rows]) * weights[rows, e].unsqueeze(-1).to(flat.dtype)
                total.index_add_(0, rows, out.to(total.dtype))
        return total.reshape(states.shape)


class MixedLayer(nn.Module):
    """The decoder layers that stand in the place of one."""

    def __init__(self, layer, config, number, routes):
        super().__init__()
        self.experts = nn.ModuleList([layer] + [copy.deepcopy(layer) for _ in config.experts[1:]])
        self.number = number
        self.last = number == config.base.num_hidden_layers - 1
        self.first = number == config.dense_layers
        self.level = config.level
        self.routes = routes
        self.top_gate = []
        if config.level == "block":
            self.gate = Gate(config.router, config.hidden_size, len(config.experts))
        # Some models ask their layers for the kind of mask they need.
        for name in ("attention_type", "is_sliding", "sliding_window"):
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))
        # Each expert keeps keys and values of its own: expert 0 in the place of the layer, the others behind all layers.
        mixed = config.mixed_layers.index(number)
        for e, expert in enumerate(self.experts):
            slot = number if e == 0 else config.base.num_hidden_layers + mixed * (len(config.experts) - 1) + e - 1
            for module in expert.modules():
                if hasattr(module, "layer_idx"):
                    module.layer_idx = slot

    def forward(self, states, *args, **kwargs):
        if self.level == "block":
            weights = self.routes.weights(self.number, self.gate, states)
        else:
            if self.first:
                self.routes.top = self.routes.weights("model", self.top_gate[0], states)
            weights = self.routes.top
        streams = []
        # Layers of older versions give a tuple, with the cache behind the stream.
        rest = None
        for e, expert in enumerate(self.experts):
            # Between layers of level `model` the streams of all experts are passed along together.
            own = states[e] if states.dim() == 4 else states
            if self.routes.idle(e, weights):
                # Its weight is zero everywhere: any finite values will do in its place.
                streams.append(own)
                continue
            out = expert(own, *args, **kwargs)
            if isinstance(out, tuple):
                out, *rest = out
            streams.append(out)
        if self.level == "model" and not self.last:
            total = torch.stack(streams)
        else:
            weights = weights.to(streams[0].dtype)
            total = sum(stream * weights[..., e].unsqueeze(-1) for e, stream in enumerate(streams))
        return total if rest is None else (total, *rest)


class GlueMixtureForCausalLM(PreTrainedModel, GenerationMixin):
    """A mixture of MLPs, of decoder layers, of the upper parts of models, or of whole models."""

    config_class = GlueMixtureConfig
    base_model_prefix = "model"
    # The bias of a linear gate is zero where the file has none.
    _keys_to_ignore_on_load_missing = [r"(^|\.)gate\.bias$"]
    supports_gradient_checkpointing = False
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flash_attn_2 = True
    _supports_static_cache = False

    def __init__(self, config, *args, **kwargs):
        super().__init__(config)
        self.routes = Routes(config)
        self.loaded = {}
        self.dense = None
        if config.whole:
            self.gate = Gate(config.router, config.hidden_size, len(config.experts))
        else:
            self.build(config)
        self.post_init()

    def build(self, config):
        try:
            dense = AutoModelForCausalLM.from_config(config.base, attn_implementation=config._attn_implementation)
        except ValueError:
            # The choice that is made unless somebody makes one; some families do without it.
            if config._attn_implementation != "sdpa":
                raise
            dense = AutoModelForCausalLM.from_config(config.base, attn_implementation="eager")
        layers = dense.model.layers
        for number in config.mixed_layers:
            if config.level == "ffn":
                layers[number].mlp = MixedMlp(layers[number].mlp, config, number, self.routes)
            else:
                layers[number] = MixedLayer(layers[number], config, number, self.routes)
        if config.level == "model" and config.mixed_layers:
            dense.model.gate = Gate(config.router, config.hidden_size, len(config.experts))
            layers[config.dense_layers].top_gate = [dense.model.gate]
        takes = inspect.signature(dense.forward).parameters
        self.cache_name = "cache" if "cache" in takes else "past_key_values"
        self.model = dense.model
        self.lm_head = dense.lm_head
        # In a tuple, so that its modules are not registered a second time.
        self.dense = (dense,)
        # What the files lack is given its first values by the model that it stands in, which knows nothing of gates.
        dense.model._init_weights = functools.partial(init_either, dense.model._init_weights)
        self._tied_weights_keys = getattr(dense, "_tied_weights_keys", None)

    def _init_weights(self, module):
        if isinstance(module, Gate):
            init_gate(module)
        elif self.dense is None:
            super()._init_weights(module)
        else:
            self.dense[0]._init_weights(module)

    def get_input_embeddings(self):
        return None if self.dense is None else self.model.embed_tokens

    def set_input_embeddings(self, value):
        self.model.embed_tokens = value

    def get_output_embeddings(self):
        return None if self.dense is None else self.lm_head

    def set_output_embeddings(self, value):
        self.lm_head = value
        self.dense[0].lm_head = value

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        past_key_values=None,
        inputs_embeds=None,
        labels=None,
        use_cache=None,
        prompt_mask=None,
        cache=None,
        **kwargs,
    ):
        """As any causal language model; `cache` is what newer versions call `past_key_values`. `prompt_mask` [batch, tokens] marks the tokens by which a sample is routed; without it
        all tokens of the first call that `attention_mask` does not exclude. Columns that it lacks are no prompt's."""
        if self.config.whole:
            return self.forward_whole(input_ids, attention_mask, prompt_mask, labels)
        given = input_ids if input_ids is not None else inputs_embeds
        if use_cache is None:
            use_cache = bool(getattr(self.config, "use_cache", True)) and not self.training
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = new_cache(self.config.base)
        if cache is not None:
            self.add_slots(cache)
        fresh = cache is None or cache.get_seq_length() == 0
        decided = {} if fresh else getattr(cache, "glue_routes", {})
        self.routes.begin(prompt_of(given, attention_mask, prompt_mask), decided, fresh, cache is not None)
        output = self.dense[0](
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            labels=labels,
            use_cache=use_cache,
            **{self.cache_name: cache},
            **kwargs,
        )
        if cache is not None:
            cache.glue_routes = decided
        return output

    def add_slots(self, cache):
        """Makes room for keys and values of the experts that stand behind all layers."""
        config = self.config
        if config.level == "ffn" or not hasattr(cache, "layers") or len(cache.layers) == 0:
            return
        n = config.base.num_hidden_layers
        slots = n + len(config.mixed_layers) * (len(config.experts) - 1)
        if getattr(cache, "layer_class_to_replicate", None) is not None or len(cache.layers) >= slots:
            return
        if cache.get_seq_length() != 0:
            raise ValueError("a cache that was filled by another model cannot be used")
        for layer in config.mixed_layers:
            cache.layers.extend(copy.deepcopy(cache.layers[layer]) for _ in config.experts[1:])

    # Whole models. Their files are read when they are needed first.

    def part(self, name):
        """Model and tokenizer in the directory `name` of the mixture."""
        if name not in self.loaded:
            path = os.path.join(self.config._name_or_path, *name.split("/"))
            if not os.path.isdir(path):
                raise ValueError(f"{path} is missing: a mixture of whole models must be loaded from its directory")
            model = AutoModelForCausalLM.from_pretrained(path, torch_dtype=self.gate_dtype()).to(self.device).eval()
            self.loaded[name] = (model, AutoTokenizer.from_pretrained(path))
        return self.loaded[name]

    def gate_dtype(self):
        return next(self.gate.parameters()).dtype

    @torch.no_grad()
    def route(self, input_ids, attention_mask=None, prompt_mask=None):
        """The number of the expert that each sample goes to, [batch]; ids are those of the model that reads the prompts."""
        reader, _ = self.part(self.config.router_model)
        layer, depth = self.config.router_layer, reader.config.get_text_config().num_hidden_layers
        if layer == depth + 1:
            states = reader.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
        else:
            seen = []
            if layer == 0:
                # What enters the first layer: some models scale the embedding.
                place = reader.model.layers[0]
                hook = place.register_forward_pre_hook(
                    lambda _, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
                )
            else:
                place = reader.model.layers[layer - 1]
                hook = place.register_forward_hook(lambda _, args, out: seen.append(out[0] if isinstance(out, tuple) else out))
            try:
                reader.model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False)
            finally:
                hook.remove()
            states = seen[0]
        state = pooled(states, prompt_of(input_ids, attention_mask, prompt_mask), self.config.pool)
        return choose(self.gate(state), 1).argmax(dim=-1)

    def forward_whole(self, input_ids, attention_mask, prompt_mask, labels):
        """Logits of each sample's expert, where all experts have the vocabulary of the model that reads the prompts."""
        if labels is not None:
            raise ValueError("the experts of a mixture of whole models are trained by themselves")
        if input_ids is None:
            raise ValueError("a mixture of whole models reads text, and so needs `input_ids`")
        _, reader = self.part(self.config.router_model)
        logits = None
        for sample, expert in enumerate(self.route(input_ids, attention_mask, prompt_mask).tolist()):
            model, tokenizer = self.part(f"experts/{expert}")
            if tokenizer.get_vocab() != reader.get_vocab():
                raise ValueError(f"expert {expert} has a vocabulary of its own: use `generate`, which goes through text")
            mask = None if attention_mask is None else attention_mask[sample : sample + 1]
            out = model(input_ids=input_ids[sample : sample + 1], attention_mask=mask, use_cache=False).logits
            if logits is None:
                logits = out.new_zeros(input_ids.shape[0], *out.shape[1:])
            if out.shape[-1] != logits.shape[-1]:
                raise ValueError("the experts' heads have different sizes: use `generate`, which goes through text")
            logits[sample] = out[0]
        return CausalLMOutputWithPast(logits=logits)

    @torch.no_grad()
    def generate(self, inputs=None, *args, **kwargs):
        """As any model's. With whole experts each prompt goes as text to its expert, and what comes back is given in the ids of the
        model that reads the prompts, padded on the right."""
        if not self.config.whole:
            return super().generate(inputs, *args, **kwargs)
        ids = inputs if inputs is not None else kwargs.pop("input_ids")
        mask = kwargs.pop("attention_mask", None)
        _, reader = self.part(self.config.router_model)
        rows = []
        for sample, expert in enumerate(self.route(ids, mask).tolist()):
            prompt = ids[sample] if mask is None else ids[sample][mask[sample].bool()]
            text = reader.decode(prompt, skip_special_tokens=True)
            model, tokenizer = self.part(f"experts/{expert}")
            encoded = tokenizer(text, return_tensors="pt").to(self.device)
            encoded.pop("token_type_ids", None)
            out = model.generate(**encoded, **kwargs)[0]
            new = tokenizer.decode(out[encoded["input_ids"].shape[1] :], skip_special_tokens=True)
            answer = reader(new, add_special_tokens=False, return_tensors="pt")["input_ids"][0].to(ids)
            rows.append(torch.cat([ids[sample], answer]))
        pad = next((i for i in (reader.pad_token_id, reader.eos_token_id) if i is not None), 0)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)


def new_cache(config):
    from transformers import DynamicCache

    try:
        return DynamicCache(config=config)
    except TypeError:
        return DynamicCache()


def prompt_of(given, attention_mask, prompt_mask):
    """The mask of the prompt's tokens for a call whose tokens are `given`."""
    shape, device = given.shape[:2], given.device
    mask = torch.ones(shape, dtype=torch.bool, device=device)
    if attention_mask is not None and attention_mask.dim() == 2:
        mask &= attention_mask[:, -shape[1] :].to(device).bool()
    if prompt_mask is not None:
        wide = torch.zeros(shape, dtype=torch.bool, device=device)
        width = min(prompt_mask.shape[1], shape[1])
        wide[:, :width] = prompt_mask[:, :width].to(device).bool()
        mask &= wide
    return mask
