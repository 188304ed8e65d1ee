"""The notebooks' one import: `import emo_utils as emo`. No logic lives here."""

from emo.data.download import fetch_dataset  # "sample", Google Drive, a .zip, a folder, … → data/
from emo.data.duplicates import example_pairs  # duplicates to show side by side
from emo.data.duplicates import find_duplicates  # identical photos and near copies
from emo.data.duplicates import summarize_duplicates  # how many, across splits and classes
from emo.data.faces import face_crops  # the crops of those faces, for load_images
from emo.data.faces import find_all_faces  # every face that stands out in one photo
from emo.data.faces import find_faces  # where the one face of each photo is
from emo.data.faces import summarize_faces  # … counted
from emo.data.image_io import load_images  # files → pictures in memory
from emo.data.manifest import class_names  # the classes, in the order of the model's outputs
from emo.data.manifest import count_photos  # photos per class in every folder of data/
from emo.data.manifest import scan_dataset  # one row per photo
from emo.data.manifest import scan_splits  # the same of data/train, data/val and data/test
from emo.data.set_aside import restore_dataset  # what set_aside_dataset moved comes back
from emo.data.set_aside import set_aside_dataset  # the dataset in data/ makes room for another
from emo.data.download import ORIGINAL_DATASET  # where the original project's photos lie on Google Drive
from emo.data.split import Split  # train, val, test
from emo.data.split import held_out_manifest  # the photos to test on
from emo.data.split import leaked_photos  # photos to test on with a duplicate in training
from emo.data.split import load_split  # data/split.csv: what trains, validates, tests, is left out
from emo.data.split import split_photos  # writes it
from emo.data.split import summarize_split  # the dataset in one table
from emo.data.split import training_manifests  # the photos to train on and to validate on
from emo.environment import results_folder  # Google Drive or this machine
from emo.environment import setup  # versions, device, seed, plot style
from emo.environment import show_source  # the lines of a function, in a notebook
from emo.errors import UserError  # a mistake the user can repair, in one sentence
from emo.evaluation.calibration import apply_temperature  # calibrated confidences
from emo.evaluation.calibration import fit_temperature  # one number that calibrates them
from emo.evaluation.comparison import compare  # is one model really better than another?
from emo.evaluation.evaluate import calibrate  # writes the temperature of the validation photos into a .h5
from emo.evaluation.evaluate import evaluate  # accuracy, F1, confusion, calibration, mistakes
from emo.evaluation.evaluate import labelled_photos  # which photos to test on
from emo.evaluation.evaluate import log_test  # test figures into the row of the run
from emo.evaluation.evaluate import report_on  # evaluate with all that data/ tells
from emo.evaluation.evaluate import validation_temperature  # that of the validation photos
from emo.evaluation.given import check_given  # the test notebook's parameters name what is there
from emo.evaluation.given import open_models  # one model, or several as an ensemble
from emo.evaluation.given import other_report  # another model's, to compare with
from emo.evaluation.model_card import write_card  # the model card of a .h5
from emo.evaluation.report_file import read_report  # a saved report
from emo.evaluation.report_file import save_report  # one HTML file and its JSON
from emo.evaluation.submission import write_submission  # image_path,emotion
from emo.experiments import EXPERIMENTS  # the original project's eleven and our recipes
from emo.experiments import Experiment  # everything that decides a run
from emo.experiments import describe_experiment  # what differs from the defaults
from emo.experiments import get_experiment  # one of them, with changes
from emo.experiments import parse_changes  # a dict, its JSON, or "epochs=3"
from emo.inference.classifier import find_model  # a .h5 by path or name, or the newest in model/
from emo.inference.classifier import load_classifier  # any saved .h5, ready to predict
from emo.inference.ensemble import Ensemble  # several models that answer as one
from emo.inference.export import export_model  # a .h5 as TFLite, ONNX or SavedModel, checked
from emo.inference.export import export_table  # size and latency of exported models
from emo.inference.grad_cam import grad_cam  # where in a picture an emotion is seen
from emo.inference.live_page import demo  # a page in the browser: camera or photo in, emotions out
from emo.inference.hub import push  # a .h5 with its card, curve and checksum to the Hugging Face Hub
from emo.inference.photo import classify_faces  # what a classifier says of every face in a photo
from emo.inference.photo import open_photo  # a photo from a path, a URL, an upload, …
from emo.inference.video import classify_video  # a row per frame and face and an annotated copy
from emo.inference.webcam import ask_for_photo  # "webcam", "upload", a path or a URL
from emo.inference.webcam import take_photo  # a snapshot of the webcam, in Colab
from emo.inference.webcam import upload_photo  # a file of the person at the notebook
from emo.models.augmentation import augment_examples  # what on-the-fly augmentation makes of some pictures
from emo.models.backbones import BACKBONES  # the networks an experiment can name
from emo.models.build import build_model  # an experiment's network
from emo.paths import get_paths  # every folder and file name
from emo.plots.curves import plot_curve  # accuracy and loss by epoch
from emo.plots.data import plot_class_balance  # photos per class
from emo.plots.data import plot_photos  # a grid of pictures
from emo.plots.data import plot_sizes  # how large photos are
from emo.plots.data import plot_suspects  # photos with doubtful labels
from emo.plots.evaluation import plot_confusion  # true × predicted
from emo.plots.evaluation import plot_coverage  # accuracy where the model may abstain
from emo.plots.evaluation import plot_mistakes  # a grid titled true → predicted and confidence
from emo.plots.evaluation import plot_reliability  # accuracy by confidence
from emo.plots.evaluation import plot_report  # confusion, calibration, coverage
from emo.plots.photo import plot_my_photo  # its faces, each with heat map and top 3
from emo.tracking.summary import newest_and_best  # your runs, and the original project's best
from emo.tracking.table import create_table  # experiments.xlsx with the original project's eleven
from emo.tracking.table import read_table  # experiments.xlsx as a data frame
from emo.training.augmented_copy import write_augmented_copy  # the original project's data/train_aug
from emo.training.checkpoint import run_name  # what its logs may be called
from emo.training.feature_cache import backbone_features  # what a backbone sees in photos, computed once
from emo.training.feature_cache import clear_features  # empties data/.features
from emo.training.feature_cache import load_photos  # a manifest's photos as a network takes them
from emo.training.label_audit import audit_labels  # which labels to doubt
from emo.training.plan import prepare_run  # the photos and the network of a run
from emo.training.train import compile_trainer  # how Keras is told to train
from emo.training.train import fit_epochs  # its fit
from emo.training.train import train  # an experiment → model, curve, row
from emo.training.train import train_prepared  # train what prepare_run gave
