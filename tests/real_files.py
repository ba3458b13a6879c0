"""Trainings of a few steps by the libraries that people train with, and what their networks saw when they saved.

Run as a script, `real_files.py FOLDER LIBRARY...`, so that nothing that a library imports, warns of or leaves running
reaches the tests. FOLDER/LIBRARY/RUN has what the training left, FOLDER/LIBRARY/seen.pt what the tests compare:
run -> step, "ema" behind it for averaged weights -> layer -> the layer's output on BATCH, of the network in evaluation
mode, at that moment.
"""

import argparse
import dataclasses
import os
import sys
from pathlib import Path

import odd_network
import torch
from torch import nn

BATCH = (torch.arange(2 * 3 * 32 * 32) * 0.37).sin().reshape(2, 3, 32, 32)
CONVNEXT = ("test_convnext", {"num_classes": 4})
VIT = ("test_vit", {"num_classes": 4, "img_size": 32})
LAYERS = {"test_convnext": ("stages.1",), "test_vit": ("blocks.1.mlp.act",), "test_resnet": ("layer2",)}
VIT_LAYERS = ("vit.layers.1",)
RESNET = ("test_resnet", {"num_classes": 4})
SEEN: dict = {}


def network(kind):
    """Build one of timm's networks for tests, always the same."""
    import timm

    torch.manual_seed(3)
    return timm.create_model(kind[0], **kind[1])


def look(net, *layers):
    """Return what layers put out on the batch, in evaluation mode."""
    found, was_training = {}, net.training
    hooks = [
        net.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: found.update({name: out.clone()}))
        for name in layers
    ]
    with torch.no_grad():
        net.eval()(BATCH)
    net.train(was_training)
    for hook in hooks:
        hook.remove()
    return found


def remember(run, step, net, kind, weights="raw"):
    """Keep what a network puts out now."""
    SEEN.setdefault(run, {})[step if weights == "raw" else f"{step} {weights}"] = look(net, *LAYERS[kind[0]])


def data(count=8):
    """Return images with labels."""
    torch.manual_seed(5)
    return torch.utils.data.TensorDataset(torch.randn(count, 3, 32, 32), torch.arange(count) % 4)


def train_step(net, optimizer, number=0):
    """Take one step."""
    images, labels = data()[2 * number % 8 : 2 * number % 8 + 4]
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(images), labels).backward()
    optimizer.step()


@dataclasses.dataclass
class Odd:
    """A class of the training script's own, which nobody else can import."""

    width: int = 3


class Own(odd_network.Net):
    """A network of the training script's own."""


def lightning(folder):
    import lightning
    from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint

    class Task(lightning.LightningModule):
        def __init__(self, kind, odd, place, run, compiled=False):
            super().__init__()
            self.save_hyperparameters()
            self.model = network(kind)
            if compiled:
                self.model = torch.compile(self.model)

        def training_step(self, batch, _):
            loss = nn.functional.cross_entropy(self.model(batch[0]), batch[1])
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters(), lr=1e-2)

        def configure_model(self):
            if self.device_mesh is not None:
                torch.distributed.fsdp.fully_shard(self.model, mesh=self.device_mesh["data_parallel"])

        def on_save_checkpoint(self, checkpoint):
            run, kind, step = self.hparams.run, self.hparams.kind, self.trainer.global_step
            remember(run, step, getattr(self.model, "_orig_mod", self.model), kind)
            for averaging in (held for held in self.trainer.callbacks if isinstance(held, EMAWeightAveraging)):
                remember(run, step, averaging._average_model.module.model, kind, "ema")

    def fit(run, kind, *callbacks, epochs=2, compiled=False, whole=False, **more):
        task = Task(kind, Odd(), Path("somewhere"), run, compiled)
        task = torch.compile(task) if whole else task
        trainer = lightning.Trainer(
            default_root_dir=folder / run,
            max_epochs=epochs,
            accelerator="cpu",
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[*callbacks],
            log_every_n_steps=1,
            **{"logger": False, **more},
        )
        trainer.fit(task, torch.utils.data.DataLoader(data(), batch_size=4))
        return trainer, task

    fit("epochs", CONVNEXT, ModelCheckpoint(folder / "epochs", save_top_k=-1, save_last=True), epochs=3)
    fit("steps", VIT, ModelCheckpoint(folder / "steps", save_top_k=-1, every_n_train_steps=1, save_last="link"))
    best = {"filename": "best", "monitor": "loss", "save_top_k": 1, "mode": "min"}
    for _ in range(2):
        fit("again", RESNET, ModelCheckpoint(folder / "again", filename="{epoch}", save_top_k=-1), epochs=1)
    fit("best", RESNET, ModelCheckpoint(folder / "best", save_top_k=-1), ModelCheckpoint(folder / "best", **best))
    fit("compiled", VIT, ModelCheckpoint(folder / "compiled", save_top_k=-1), compiled=True)
    fit("compiled_whole", VIT, ModelCheckpoint(folder / "compiled_whole", save_top_k=-1), whole=True)
    averaging = EMAWeightAveraging(decay=0.5)
    fit("averaged", RESNET, averaging, ModelCheckpoint(folder / "averaged", save_top_k=-1))
    fit("weights_only", RESNET, ModelCheckpoint(folder / "weights_only", save_top_k=-1, save_weights_only=True))
    sharding = lightning.pytorch.strategies.ModelParallelStrategy(1, 1, process_group_backend="gloo")
    saving = ModelCheckpoint(folder / "sharding", save_top_k=-1, save_last=True)
    fit("sharding", RESNET, saving, strategy=sharding, devices=1)
    # What a Trainer does without being asked, with a logger of files beside.
    fit("unasked", RESNET, logger=lightning.pytorch.loggers.CSVLogger(folder / "unasked"))


def timm(folder):
    import timm.utils

    run = folder / "timm"
    run.mkdir()
    net = network(RESNET)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    average = timm.utils.ModelEmaV3(net, decay=0.5)
    args = argparse.Namespace(model="test_resnet", lr=0.1, output=str(run))
    places = {"checkpoint_dir": str(run), "recovery_dir": str(run)}
    saver = timm.utils.CheckpointSaver(
        net, optimizer, args, average, timm.utils.NativeScaler(), **places, max_history=3
    )
    for epoch in range(4):
        train_step(net, optimizer, epoch)
        average.update(net)
        saver.save_recovery(epoch, batch_idx=7)  # within an epoch
        train_step(net, optimizer, epoch + 1)
        average.update(net)
        remember("timm", epoch, net, RESNET)
        remember("timm", epoch, average.module, RESNET, "ema")
        saver.save_checkpoint(epoch, metric=[10, 30, 20, 25][epoch])


def torchvision(folder):
    """Save as torchvision's references/classification/train.py does; those scripts are not in its wheel."""
    run = folder / "references"
    run.mkdir()
    net = network(RESNET)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2)
    average = torch.optim.swa_utils.AveragedModel(
        net, avg_fn=lambda old, new, _: 0.5 * old + 0.5 * new, use_buffers=True
    )
    args = argparse.Namespace(model="resnet18", output_dir=str(run), epochs=3, clip_grad_norm=None)
    for epoch in range(3):
        train_step(net, optimizer, epoch)
        average.update_parameters(net)
        scheduler.step()
        remember("references", epoch, net, RESNET)
        remember("references", epoch, average.module, RESNET, "ema")
        checkpoint = {
            "model": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": epoch,
            "args": args,
            "model_ema": average.state_dict(),
        }
        torch.save(checkpoint, run / f"model_{epoch}.pth")
        torch.save(checkpoint, run / "checkpoint.pth")


def transformers(folder):
    import transformers
    from safetensors.torch import load_file

    def vit():
        torch.manual_seed(3)
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
        return transformers.ViTForImageClassification(
            transformers.ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=4)
        )

    class Watch(transformers.TrainerCallback):
        def __init__(self, run):
            self.run = run

        def on_save(self, args, state, control, model=None, **_):
            SEEN.setdefault(self.run, {})[state.global_step] = look(model, *VIT_LAYERS)

    rows = [{"pixel_values": image, "labels": label} for image, label in data()]

    def train(run, *, final=True, **more):
        place = folder / run
        how = transformers.TrainingArguments(
            str(place), max_steps=4, save_steps=2, per_device_train_batch_size=4, use_cpu=True, report_to=[],
            disable_tqdm=True, logging_steps=1, **more,
        )  # fmt: skip
        trainer = transformers.Trainer(vit(), how, train_dataset=rows, eval_dataset=rows, callbacks=[Watch(run)])
        trainer.train()
        if trainer.state.best_model_checkpoint:
            # transformers 5.23 itself loads only what has kept its name since 4, which leaves a mixture.
            best = transformers.ViTForImageClassification.from_pretrained(trainer.state.best_model_checkpoint)
            trainer.model.load_state_dict(best.state_dict())
        if final:
            trainer.save_model()
            trainer.save_state()
        return trainer

    evaluated = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss"}
    train("trainer")
    train("best", load_best_model_at_end=True, greater_is_better=True, **evaluated)
    train("sharded", final=False)
    for step in (2, 4):
        place = folder / "sharded" / f"checkpoint-{step}"
        net = transformers.ViTForImageClassification.from_pretrained(place)
        (place / "model.safetensors").unlink()
        net.save_pretrained(place, max_shard_size="40KB")
    train("binary", final=False)  # what the Trainer wrote before it took up safetensors
    for step in (2, 4):
        place = folder / "binary" / f"checkpoint-{step}"
        torch.save(load_file(place / "model.safetensors"), place / "pytorch_model.bin")
        (place / "model.safetensors").unlink()


def accelerate(folder):
    import accelerate

    for run, named in (("numbered", True), ("named", False)):
        project = accelerate.utils.ProjectConfiguration(str(folder / run), automatic_checkpoint_naming=named)
        accelerator = accelerate.Accelerator(cpu=True, project_config=project)
        net = network(RESNET)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        net, optimizer = accelerator.prepare(net, optimizer)
        for epoch in range(3):
            train_step(net, optimizer, epoch)
            remember(run, epoch, accelerator.unwrap_model(net), RESNET)
            accelerator.save_state(None if named else str(folder / run / f"epoch_{epoch}"))
        accelerator.save_model(net, str(folder / f"{run}_final"), max_shard_size="10GB" if named else "200KB")
        remember(f"{run}_final", 2, accelerator.unwrap_model(net), RESNET)
    accelerator.save_state(str(folder / "binary" / "step_2"), safe_serialization=False)
    remember("binary", 2, accelerator.unwrap_model(net), RESNET)


def plain(folder):
    """Save as people do without a library: wrapped, pruned, whole, scripted and exported."""
    import torch.distributed.checkpoint
    from torch.nn.utils import prune

    net = network(RESNET)
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    wrapped = {
        "parallel": nn.parallel.DistributedDataParallel(net),
        "compiled": torch.compile(net),
        "parallel_compiled": nn.parallel.DistributedDataParallel(torch.compile(net)),
        "compiled_parallel": torch.compile(nn.parallel.DistributedDataParallel(net)),
    }
    for run in (*wrapped, "distributed", "scripted", "traced", "exported", "pruned", "whole", "whole_own"):
        (folder / run).mkdir()
    for epoch in range(2):
        train_step(net, optimizer, epoch)
        for run, outer in wrapped.items():
            remember(run, epoch, net, RESNET)
            torch.save({"epoch": epoch, "state_dict": outer.state_dict()}, folder / run / f"epoch_{epoch}.pt")
        for run in ("distributed", "traced", "exported"):
            remember(run, epoch, net, RESNET)
        states = {"model": net.state_dict(), "optim": optimizer.state_dict(), "epoch": epoch, "args": {"out": Path()}}
        torch.distributed.checkpoint.save(states, checkpoint_id=folder / "distributed" / f"step_{epoch}")
        net.eval()
        torch.jit.trace(net, BATCH).save(folder / "traced" / f"epoch_{epoch}.pt")
        torch.export.save(torch.export.export(net, (BATCH,)), folder / "exported" / f"epoch_{epoch}.pt2")
        net.train()
    torch.distributed.destroy_process_group()
    for run, whole in {"whole": odd_network.Net(), "whole_own": Own()}.items():
        for epoch in range(2):
            nn.init.normal_(whole.first.weight)
            SEEN.setdefault(run, {})[epoch] = look(whole, "first")
            torch.save(whole, folder / run / f"epoch_{epoch}.pt")
            if run == "whole":
                SEEN.setdefault("scripted", {})[epoch] = SEEN[run][epoch]
                torch.jit.script(whole).save(folder / "scripted" / f"epoch_{epoch}.pt")
    for epoch in range(2):
        train_step(net, optimizer, epoch)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                prune.l1_unstructured(module, "weight", amount=0.3)
        remember("pruned", epoch, net, RESNET)
        torch.save(net.state_dict(), folder / "pruned" / f"epoch_{epoch}.pt")


def parallel(folder):
    """Save from two processes that have a part of each tensor each."""
    import torch.distributed.checkpoint
    import torch.distributed.fsdp

    torch.multiprocessing.start_processes(train_in_parallel, (folder,), 2, start_method="fork")
    SEEN.update(torch.load(folder / "seen.pt"))


def train_in_parallel(rank, folder):
    """Train one half of the parallel network."""
    import torch.distributed.checkpoint
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_state_dict
    from torch.distributed.fsdp import fully_shard

    store = torch.distributed.FileStore(str(folder / "store"), 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(3)
    net = odd_network.Net()
    fully_shard(net, mesh=torch.distributed.init_device_mesh("cpu", (2,)))
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for step in (5, 10):
        net(BATCH).square().mean().backward()
        optimizer.step()
        weights, optimizers = get_state_dict(net, optimizer)
        saved = {"model": weights, "optimizer": optimizers, "step": step}
        torch.distributed.checkpoint.save(saved, checkpoint_id=folder / "parallel" / f"step_{step}")
        # As Accelerate does with fully sharded data parallelism, which it has for accelerators only.
        accelerated = folder / "accelerate_parallel" / f"checkpoint_{step}" / "pytorch_model_fsdp_0"
        torch.distributed.checkpoint.save({"model": weights}, checkpoint_id=accelerated)
        whole = get_model_state_dict(net, options=StateDictOptions(full_state_dict=True))
        if rank == 0:
            same = odd_network.Net()
            same.load_state_dict(whole)
            for run in ("parallel", "accelerate_parallel"):
                SEEN.setdefault(run, {})[step] = look(same, "first", "second")
    if rank == 0:
        torch.save(SEEN, folder / "seen.pt")
    torch.distributed.destroy_process_group()


MAKERS = {made.__name__: made for made in (lightning, timm, torchvision, transformers, accelerate, plain, parallel)}


def main(folder, *libraries):
    """Train with some of the libraries, in a folder."""
    from cmon.torchvision_import import torchvision as import_torchvision

    import_torchvision()
    torch.set_num_threads(1)
    torch.compiler.set_stance("force_eager")  # what is wrapped is saved under the same names, and compiled in no time
    for library in libraries:
        place = Path(folder) / library
        place.mkdir()
        MAKERS[library](place)
        torch.save(SEEN, place / "seen.pt")
        SEEN.clear()


if __name__ == "__main__":
    sys.modules["real_files"] = sys.modules["__main__"]
    main(*sys.argv[1:])
