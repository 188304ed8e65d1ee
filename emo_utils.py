"""The notebooks' one import: `import emo_utils as emo`. No logic lives here."""

from emo.audit import audit_labels  # which labels to doubt
from emo.augment import augment_examples  # what on-the-fly augmentation makes of some pictures
from emo.augment import write_augmented_copy  # the seed's data/train_aug
from emo.backbones import BACKBONES  # the networks an experiment can name
from emo.calibration import apply_temperature  # calibrated confidences
from emo.calibration import fit_temperature  # one number from validation photos that calibrates them
from emo.camera import ask_for_photo  # "webcam", "upload", a path or a URL
from emo.camera import take_photo  # a snapshot of the webcam, in Colab
from emo.camera import upload_photo  # a file of the person at the notebook
from emo.card import write_card  # the model card beside a .h5
from emo.classifier import find_model  # a .h5 by path or name, or the newest in model/
from emo.classifier import load_classifier  # any saved .h5, ready to predict
from emo.committee import Committee  # several models that answer as one
from emo.compare import compare  # is one model really better than another?
from emo.dataset import SEED_DATASET  # where the project's own photos lie on Google Drive
from emo.dataset import class_names  # the classes, in the order of the model's outputs
from emo.dataset import count_photos  # photos a class in every folder of data/
from emo.dataset import fetch_dataset  # "sample", Google Drive, a .zip or a folder → data/
from emo.dataset import scan_dataset  # one row a photo
from emo.dataset import scan_splits  # the same of data/train, data/val and data/test
from emo.environment import results_folder  # Google Drive or this machine
from emo.environment import setup  # versions, device, seed, plot style
from emo.errors import UserError  # a mistake the user can mend, in one sentence
from emo.evaluation import evaluate  # accuracy, F1, confusion, calibration, mistakes
from emo.evaluation import log_test  # test figures into the row of the run
from emo.evaluation import labelled_photos  # which photos to test on
from emo.evaluation import validation_temperature  # the temperature of the model's own validation photos
from emo.evaluation import write_submission  # image_path,emotion
from emo.experiments import EXPERIMENTS  # the seed's eleven and our recipes
from emo.experiments import Experiment  # everything that decides a run
from emo.experiments import get_experiment  # one of them, with changes
from emo.explain import grad_cam  # where in a picture an emotion is seen
from emo.export import export_table  # size and latency of exported models
from emo.faces import face_crops  # the crops of those faces, for load_images
from emo.faces import find_all_faces  # every face that stands out in one photo
from emo.faces import find_faces  # where the one face of each photo is
from emo.faces import summarize_faces  # … counted
from emo.frozen import backbone_features  # what a backbone sees in photos, computed once
from emo.frozen import clear_features  # empties data/.features
from emo.frozen import load_photos  # a manifest's photos as an experiment's network takes them
from emo.model import build_model  # an experiment's network
from emo.my_photo import classify_faces  # what a classifier says of every face in a photo
from emo.my_photo import open_photo  # a photo from a path, a URL, an upload, …
from emo.paths import get_paths  # every folder and file name
from emo.pipeline import load_images  # files → pictures in memory
from emo.plots import plot_class_balance  # photos a class
from emo.plots import plot_confusion  # true × predicted
from emo.plots import plot_coverage  # accuracy where the model may abstain
from emo.plots import plot_curve  # accuracy and loss by epoch
from emo.plots import plot_mistakes  # a grid titled true → predicted and how sure
from emo.plots import plot_my_photo  # its faces, where the answer is seen in each, the top 3
from emo.plots import plot_photos  # a grid of pictures
from emo.plots import plot_predictions  # a grid titled true / predicted
from emo.plots import plot_sizes  # how large photos are
from emo.plots import plot_suspects  # photos with doubtful labels
from emo.quality import example_pairs  # twins to show side by side
from emo.quality import find_duplicates  # identical photos and near copies
from emo.quality import summarize_duplicates  # how many, across splits and classes
from emo.plots import plot_reliability  # how right it is by how sure it is
from emo.publish import read_report  # a saved report
from emo.publish import save_report  # one HTML file and its JSON
from emo.runlog import read_table  # experiments.xlsx as a data frame
from emo.split import leaked_photos  # photos to test on with a twin in training
from emo.split import load_split  # data/split.csv: what trains, validates, tests, is left out
from emo.split import split_photos  # writes it
from emo.split import summarize_split  # the dataset in one table
from emo.split import training_manifests  # the photos to train on and to validate on
from emo.training import train  # an experiment → model, curve, row
from emo.video import classify_video  # a table a frame and an annotated copy
