#!/bin/bash
echo CASK-FIXTURE-FAILED-TEST
exit 1
