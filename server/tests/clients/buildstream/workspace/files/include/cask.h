#define CASK 1
