"""The notebooks' one import: `import emo_utils as emo`. No logic lives here."""

from emo.augment import augment_examples  # what on-the-fly augmentation makes of some pictures
from emo.augment import write_augmented_copy  # the seed's data/train_aug
from emo.backbones import BACKBONES  # the networks an experiment can name
from emo.classifier import find_model  # a .h5 by path or name, or the newest in model/
from emo.classifier import load_classifier  # a saved .h5, ready to predict
from emo.dataset import SEED_DATASET  # where the project's own photos lie on Google Drive
from emo.dataset import class_names  # the classes, in the order of the model's outputs
from emo.dataset import count_photos  # photos a class in every folder of data/
from emo.dataset import fetch_dataset  # "sample", Google Drive, a .zip or a folder → data/
from emo.dataset import scan_dataset  # one row a photo
from emo.dataset import training_manifests  # the photos to train on and to validate on
from emo.environment import results_folder  # Google Drive or this machine
from emo.environment import setup  # versions, device, seed, plot style
from emo.errors import UserError  # a mistake the user can mend, in one sentence
from emo.evaluation import evaluate  # accuracy, F1, confusion, calibration
from emo.evaluation import log_test  # test figures into the row of the run
from emo.evaluation import labelled_photos  # which photos to test on
from emo.evaluation import write_submission  # image_path,emotion
from emo.experiments import EXPERIMENTS  # the seed's eleven
from emo.experiments import Experiment  # everything that decides a run
from emo.experiments import get_experiment  # one of them, with changes
from emo.faces import face_crops  # the crops of those faces, for load_images
from emo.faces import find_faces  # where the one face of each photo is
from emo.faces import summarize_faces  # … counted
from emo.model import build_model  # an experiment's network
from emo.paths import get_paths  # every folder and file name
from emo.pipeline import load_images  # files → pictures in memory
from emo.plots import plot_class_balance  # photos a class
from emo.plots import plot_confusion  # true × predicted
from emo.plots import plot_curve  # accuracy and loss by epoch
from emo.plots import plot_photos  # a grid of pictures
from emo.plots import plot_predictions  # a grid titled true / predicted

from emo.runlog import read_table  # experiments.xlsx as a data frame
from emo.training import train  # an experiment → model, curve, row
